"""A local HTTP server with the faults of real ones: it breaks off, is slow, ignores ranges, has other files."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """What it serves and how; `requests` holds (path, Range header) of all that it was asked for."""

    files: dict[str, bytes]  # by file name, whatever the folder of the address
    ranges: bool = True
    breaks: list[int] = field(default_factory=list)  # bytes after which the next answers end, before their time
    pause: float = 0.0  # seconds between blocks
    encoding: str = ""  # Content-Encoding that it claims
    kind: str = ""  # Content-Type that it claims
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""


@contextmanager
def serve(**settings: object) -> Iterator[Server]:
    """Runs a server until the `with` block ends."""
    server = Server(**settings)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            server.requests.append((self.path, asked))
            content = server.files.get(self.path.rpartition("/")[2])
            if content is None:
                self.send_error(404)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if asked and server.ranges else 200)
            if asked and server.ranges:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            for name, value in (("Content-Encoding", server.encoding), ("Content-Type", server.kind)):
                if value:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            sent = content[start : start + server.breaks.pop(0) if server.breaks else None]
            for first in range(0, len(sent), 10_000):
                time.sleep(server.pause)
                self.wfile.write(sent[first : first + 10_000])

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.address = f"http://127.0.0.1:{http.server_port}"
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
