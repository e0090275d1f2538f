"""Downloads from servers that break off, answer 404, ignore ranges, are slow or have a wrong file."""

import gzip
import hashlib
import io
import os
import zipfile
from pathlib import Path

import pytest
import urllib3

from jseg import downloads
from jseg.downloads import RemoteFile, download
from jseg.errors import CannotWrite, UserError
from tests.broken_server import Server, serve

CONTENT = bytes(range(256)) * 400  # 102,400 bytes
WRONG = b"<html>Please sign in</html>" * 500
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PAUSE", 0.0)
    monkeypatch.setattr(downloads, "TIMEOUT", 0.5)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def file_at(*servers: Server, checksum: str = MD5, name: str = "file.tar") -> RemoteFile:
    return RemoteFile(name, tuple(f"{server.address}/folder/{name}" for server in servers), len(CONTENT), checksum)


def ranges_of(server: Server) -> list[str | None]:
    return [asked for _, asked in server.requests]


@pytest.mark.parametrize("version", [1, 2])  # of urllib3: the first ends without an error
def test_a_broken_download_is_asked_for_the_rest(version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = property(lambda _: version == 2, lambda *_: None)
    monkeypatch.setattr(urllib3.HTTPResponse, "enforce_content_length", told, raising=False)
    with serve(files={"file.tar": CONTENT}, breaks=[30_000, 20_000]) as server:
        download(file_at(server), tmp_path / "new" / "file.tar")
    assert (tmp_path / "new" / "file.tar").read_bytes() == CONTENT
    assert ranges_of(server) == [None, "bytes=30000-", "bytes=50000-"]
    assert os.listdir(tmp_path / "new") == ["file.tar"]


def test_a_later_call_goes_on_with_what_an_interruption_left_at_another_address(tmp_path: Path) -> None:
    with serve(files={"file.tar": CONTENT}, breaks=[40_000, 0, 0, 0]) as server:
        with pytest.raises(UserError, match=r"file.tar cannot be fetched .*IncompleteRead.*--from"):
            download(file_at(server), tmp_path / "file.tar")
        assert os.listdir(tmp_path) == ["file.tar.part"]
        with serve(files={"file.tar": CONTENT}) as other:
            download(file_at(other), tmp_path / "file.tar")
    assert (tmp_path / "file.tar").read_bytes() == CONTENT and ranges_of(other) == ["bytes=40000-"]


def test_a_server_that_ignores_ranges_sends_all_again(tmp_path: Path) -> None:
    with serve(files={"file.tar": CONTENT}, ranges=False, breaks=[70_000]) as server:
        download(file_at(server), tmp_path / "file.tar")
    assert (tmp_path / "file.tar").read_bytes() == CONTENT and ranges_of(server) == [None, "bytes=70000-"]


def test_the_next_address_helps_where_one_has_no_or_a_wrong_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    wrong_file, right_file = {"file.tar": WRONG}, {"file.tar": CONTENT}
    with serve(files={}) as empty, serve(files=wrong_file) as wrong, serve(files=right_file) as good:
        download(file_at(empty, wrong, good), tmp_path / "file.tar")
    shown = capsys.readouterr()
    assert (tmp_path / "file.tar").read_bytes() == CONTENT and ranges_of(good) == [None]
    assert "404" in shown.err and f"MD5 is {hashlib.md5(WRONG).hexdigest()} where {MD5} is expected" in shown.err
    assert len(empty.requests) == 1  # not found is not tried again
    assert f"from {good.address}/folder/file.tar, MD5 right" in shown.out


@pytest.mark.parametrize("left", [WRONG, CONTENT + b"more", CONTENT], ids=["other", "too long", "whole"])
def test_the_beginning_of_another_file_is_dropped(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "file.tar.part").write_bytes(left)
    with serve(files={"file.tar": CONTENT}) as server:
        download(file_at(server), tmp_path / "file.tar")
    assert (tmp_path / "file.tar").read_bytes() == CONTENT
    assert ranges_of(server) == [f"bytes={len(left)}-"] + [None] * (left != CONTENT)


def test_wrong_everywhere_leaves_nothing(tmp_path: Path) -> None:
    with serve(files={"file.tar": WRONG}) as server, pytest.raises(UserError, match="MD5 is"):
        download(file_at(server), tmp_path / "file.tar")
    assert not os.listdir(tmp_path)


def test_a_login_page_does_not_cost_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "file.tar.part").write_bytes(CONTENT[:60_000])
    with (
        serve(files={"file.tar": WRONG}, ranges=False, kind="text/html") as portal,
        serve(files={"file.tar": CONTENT}) as good,
    ):
        download(file_at(portal, good), tmp_path / "file.tar")
    assert ranges_of(good) == ["bytes=60000-"]


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    (tmp_path / "file.tar.part").symlink_to("/dev/full")
    told = pytest.raises(CannotWrite, match=r"file.tar.part \(No space left")
    with serve(files={"file.tar": CONTENT}) as server, told:
        download(file_at(server), tmp_path / "file.tar")


def test_slow_is_fine_and_silent_is_not(tmp_path: Path) -> None:
    with serve(files={"file.tar": CONTENT}, pause=0.08) as server:  # longer than the time limit in all
        download(file_at(server), tmp_path / "file.tar")
    assert len(server.requests) == 1
    with serve(files={"file.tar": CONTENT}, pause=1.0) as server, pytest.raises(UserError, match="timed out"):
        download(file_at(server), tmp_path / "again.tar")
    assert len(server.requests) == downloads.TRIES


def test_archives_stay_packed_whatever_encoding_a_server_claims(tmp_path: Path) -> None:
    packed = gzip.compress(CONTENT, mtime=0)
    with serve(files={"file.tgz": packed}, encoding="gzip") as server:
        download(file_at(server, name="file.tgz", checksum=hashlib.sha256(packed).hexdigest()), tmp_path / "file.tgz")
    assert (tmp_path / "file.tgz").read_bytes() == packed


@pytest.mark.parametrize("damage", ["cut", "bit", "deflated", "none"])
def test_without_a_checksum_the_archive_is_read(tmp_path: Path, damage: str) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED if damage == "deflated" else 0) as archive:
        archive.writestr("a.txt", CONTENT)
    content = bytearray(stream.getvalue())
    if damage == "cut":
        del content[-30:]
    elif damage == "bit":
        content[5_000] ^= 1
    elif damage == "deflated":
        content[30 + len("a.txt")] = 255  # a kind of block that there is not
    with serve(files={"maps.zip": bytes(content)}) as server:
        file = file_at(server, name="maps.zip", checksum="")
        if damage == "none":
            download(file, tmp_path / "maps.zip")
            assert (tmp_path / "maps.zip").read_bytes() == content
        else:
            match = "a.txt in it is damaged" if damage == "bit" else "no whole zip archive"
            with pytest.raises(UserError, match=match):
                download(file, tmp_path / "maps.zip")


def test_proxies_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(files={"file.tar": CONTENT}) as proxy:
        monkeypatch.setenv("http_proxy", proxy.address)
        download(RemoteFile("file.tar", ("http://data.example/file.tar",), 0, MD5), tmp_path / "file.tar")
    assert proxy.requests == [("http://data.example/file.tar", None)]


def test_without_requests_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"needs requests: pip install -e '\.\[fetch\]'"):
        download(RemoteFile("file.tar", ("http://127.0.0.1:9/file.tar",), 0, MD5), tmp_path / "file.tar")
