"""tools/fetch_pretrained.py: a local server, no server, wrong files; nothing half-written is ever left."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import runpy
from pathlib import Path
from typing import Any

import pytest

from jseg.errors import UserError

TOOL = Path(__file__).resolve().parents[2] / "tools" / "fetch_pretrained.py"
CONTENT = bytes(range(256)) * 10_000
NAME = "ViT-B-16"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The tool's functions, with a small file under the name ViT-B-16."""
    functions = runpy.run_path(str(TOOL))
    functions = functions["main"].__globals__
    small = dataclasses.replace(
        functions["FILES"][NAME],
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        megabytes=len(CONTENT) / 1e6,
        url="http://127.0.0.1:9/file",  # nobody listens there
    )
    monkeypatch.setitem(functions["FILES"], NAME, small)
    return functions


def test_right_files_are_kept(tool: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(CONTENT)
    for number, how in enumerate((["--url", copy.as_uri()], ["--from", str(copy)])):
        folder = tmp_path / f"pretrained{number}"
        tool["main"]([NAME, "--folder", str(folder), *how])
        assert (folder / "ViT-B-16.pt").read_bytes() == CONTENT and os.listdir(folder) == ["ViT-B-16.pt"]
        tool["main"]([NAME, "--folder", str(folder)])  # the address refuses: proof that nothing is fetched again
        assert "already there" in capsys.readouterr().out


def test_a_damaged_file_is_replaced_only_by_force_and_by_the_right_one(tool: dict[str, Any], tmp_path: Path) -> None:
    copy, folder, target = tmp_path / "copy", tmp_path / "pretrained", tmp_path / "pretrained" / "ViT-B-16.pt"
    folder.mkdir()
    target.write_bytes(b"half")
    arguments = [NAME, "--folder", str(folder), "--from", str(copy)]
    with pytest.raises(UserError, match=r"damaged.*--force"):
        tool["main"](arguments)
    for content in (CONTENT[:-1], b"", CONTENT * 2):
        copy.write_bytes(content)
        with pytest.raises(UserError, match="SHA-256"):
            tool["main"]([*arguments, "--force"])
        assert target.read_bytes() == b"half" and os.listdir(folder) == ["ViT-B-16.pt"]
    copy.write_bytes(CONTENT)
    tool["main"]([*arguments, "--force"])
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["ViT-L-99"], "unknown name 'ViT-L-99'.*ViT-B-16, vocabulary"),
        ([], "say what to fetch"),
        (["ViT-B-16", "vocabulary", "--from", "x"], "one name"),
        (["ViT-B-16"], "cannot be fetched .*check the network, or .*--from"),
        (["ViT-B-16", "--url", "no address"], "cannot be fetched"),
        (["ViT-B-16", "--from", "nowhere"], "cannot be fetched"),
    ],
)
def test_mistakes_and_no_network(tool: dict[str, Any], tmp_path: Path, arguments: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match):
        tool["main"]([*arguments, "--folder", str(tmp_path)])
    assert not os.listdir(tmp_path)


def test_the_table_of_the_readme_agrees() -> None:
    """pretrained/README.md states address and hash of every file that can be fetched."""
    text = (TOOL.parents[1] / "pretrained" / "README.md").read_text(encoding="utf-8")
    for name, file in runpy.run_path(str(TOOL))["FILES"].items():
        assert all(f"{fact}" in text for fact in (f"`{name}`", file.file_name, file.url, file.sha256)), name
