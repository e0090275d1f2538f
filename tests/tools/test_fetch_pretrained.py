"""tools/fetch_pretrained.py: a local server, no server, wrong files; nothing half-written is ever left."""

import hashlib
import os
from pathlib import Path

import pytest

from jseg import downloads
from jseg.downloads import RemoteFile
from jseg.errors import UserError
from jseg.files import locked
from tools import fetch_pretrained

CONTENT = bytes(range(256)) * 10_000
NAME = "ViT-B-16"


@pytest.fixture(autouse=True)
def small_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file under the name ViT-B-16, at an address where nobody listens."""
    digest = hashlib.sha256(CONTENT).hexdigest()
    small = RemoteFile("ViT-B-16.pt", ("http://127.0.0.1:9/file",), len(CONTENT), digest)
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    monkeypatch.setitem(fetch_pretrained.FILES, NAME, small)


def test_right_files_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(CONTENT)
    for number, how in enumerate((["--url", copy.as_uri()], ["--from", str(copy)])):
        folder = tmp_path / f"pretrained{number}"
        fetch_pretrained.main([NAME, "--folder", str(folder), *how])
        assert (folder / "ViT-B-16.pt").read_bytes() == CONTENT and os.listdir(folder) == ["ViT-B-16.pt"]
        fetch_pretrained.main([NAME, "--folder", str(folder)])  # its address would refuse
        assert "already there" in capsys.readouterr().out


def test_a_damaged_file_is_replaced_only_on_purpose_and_by_the_right_one(tmp_path: Path) -> None:
    copy, folder, target = tmp_path / "copy", tmp_path / "pretrained", tmp_path / "pretrained" / "ViT-B-16.pt"
    folder.mkdir()
    target.write_bytes(b"half")
    arguments = [NAME, "--folder", str(folder), "--from", str(copy)]
    with pytest.raises(UserError, match=r"exists.*--overwrite"):
        fetch_pretrained.main(arguments)
    for content in (CONTENT[:-1], b"", CONTENT * 2):
        copy.write_bytes(content)
        with pytest.raises(UserError, match="SHA-256"):
            fetch_pretrained.main([*arguments, "--overwrite"])
        assert target.read_bytes() == b"half" and os.listdir(folder) == ["ViT-B-16.pt"]
    copy.write_bytes(CONTENT)
    with locked(folder, ""), pytest.raises(UserError, match="another process downloads to"):
        fetch_pretrained.main([*arguments, "--overwrite"])
    fetch_pretrained.main([*arguments, "--overwrite"])
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(("arguments", "match"), [
    (["ViT-L-99"], "unknown name 'ViT-L-99'.*ViT-B-16, vocabulary"),
    (["ViT-B-16"], "cannot be fetched .*check the network, or .*--from"),
    (["ViT-B-16", "--url", "no address"], "cannot be fetched"),
])  # fmt: skip
def test_mistakes_and_no_network(tmp_path: Path, arguments: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match):
        fetch_pretrained.main([*arguments, "--folder", str(tmp_path)])
    assert not os.listdir(tmp_path)


def test_the_table_of_the_readme_agrees() -> None:
    """pretrained/README.md states address and hash of every file that can be fetched."""
    text = (fetch_pretrained.PRETRAINED_FOLDER / "README.md").read_text(encoding="utf-8")
    for file in (RemoteFile("ViT-B-16.pt", (fetch_pretrained.CLIP_URL,), 0, fetch_pretrained.CLIP_SHA256),
                 fetch_pretrained.FILES["vocabulary"]):  # fmt: skip
        assert all(fact in text for fact in (file.name, file.urls[0], file.checksum))
