"""tools/fetch_pretrained.py: a local server, no server, wrong files; nothing half-written is ever left."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import os
import runpy
import socket
import threading
from collections.abc import Callable, Iterator
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
        url=refused_url(),
    )
    monkeypatch.setitem(functions["FILES"], NAME, small)
    return functions


def refused_url() -> str:
    """An address on this machine where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/file"


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Starts a server that answers every request with the given bytes; returns its address."""
    servers = []

    def start(content: bytes, status: int = 200, announced: int | None = None) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content) if announced is None else announced))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/file"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_download_checks_and_keeps(
    tool: dict[str, Any], serve: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "pretrained"
    tool["main"]([NAME, "--folder", str(folder), "--url", serve(CONTENT)])
    assert (folder / "ViT-B-16.pt").read_bytes() == CONTENT and os.listdir(folder) == ["ViT-B-16.pt"]
    tool["main"]([NAME, "--folder", str(folder)])  # the address refuses: proof that nothing is fetched again
    assert "already there" in capsys.readouterr().out


def test_file_urls_and_local_copies(tool: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "copy").write_bytes(CONTENT)
    for number, how in enumerate((["--url", (tmp_path / "copy").as_uri()], ["--from", str(tmp_path / "copy")])):
        folder = tmp_path / f"pretrained{number}"
        tool["main"]([NAME, "--folder", str(folder), *how])
        assert (folder / "ViT-B-16.pt").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "options", "match"),
    [
        (CONTENT[:-1], {}, "SHA-256"),
        (b"", {}, "SHA-256"),
        (CONTENT[:999_999], {"announced": len(CONTENT)}, "cannot be fetched|SHA-256"),
        (b"gone", {"status": 404}, "404"),
    ],
)
def test_wrong_answers_leave_nothing(
    tool: dict[str, Any], serve: Callable[..., str], tmp_path: Path, content: bytes, options: dict, match: str
) -> None:
    with pytest.raises(UserError, match=match):
        tool["main"]([NAME, "--folder", str(tmp_path), "--url", serve(content, **options)])
    assert not os.listdir(tmp_path)


def test_a_damaged_file_is_replaced_only_by_force(
    tool: dict[str, Any], serve: Callable[..., str], tmp_path: Path
) -> None:
    target = tmp_path / "ViT-B-16.pt"
    target.write_bytes(b"half")
    with pytest.raises(UserError, match=r"damaged.*--force"):
        tool["main"]([NAME, "--folder", str(tmp_path), "--url", serve(CONTENT)])
    with pytest.raises(UserError, match="SHA-256"):
        tool["main"]([NAME, "--folder", str(tmp_path), "--force", "--url", serve(b"wrong")])
    assert target.read_bytes() == b"half"
    tool["main"]([NAME, "--folder", str(tmp_path), "--force", "--url", serve(CONTENT)])
    assert target.read_bytes() == CONTENT and os.listdir(tmp_path) == ["ViT-B-16.pt"]


def test_an_installed_package_serves_the_vocabulary(
    tool: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / folder / "ViT-B-16.pt" for folder in ("none", "damaged", "whole")]
    for path, content in zip(paths[1:], (b"other", CONTENT), strict=True):
        path.parent.mkdir()
        path.write_bytes(content)
    monkeypatch.setitem(tool, "installed_vocabularies", lambda: paths)
    tool["main"]([NAME, "--folder", str(tmp_path / "pretrained")])
    assert (tmp_path / "pretrained" / "ViT-B-16.pt").read_bytes() == CONTENT


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
