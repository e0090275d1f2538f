"""Files from the Internet: several addresses, resumed by HTTP ranges, verified. Needs the extra `fetch` (requests)."""

import importlib.util
import shutil
import sys
import time
import urllib.parse
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from jseg.errors import UserError
from jseg.files import digest_of, writing

TIMEOUT = 30.0  # seconds without a byte
TRIES = 3  # of an address that brings nothing more
PAUSE = 2.0  # seconds before the second of them, twice as long before the third
BLOCK = 2**16  # what is lost at most when a download is killed
BY_HAND = "check the network, or download it elsewhere and pass it by --from"
HASHES = {32: "MD5", 64: "SHA-256"}  # by the number of hexadecimal digits


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be downloaded."""

    name: str
    urls: tuple[str, ...]  # tried in this order
    size: int  # bytes, for plans: about right is enough
    checksum: str  # MD5 or SHA-256; "": a zip archive, whose own CRCs are checked


def part_of(target: Path) -> Path:
    """Where the beginning of a file lies until it is whole and right."""
    return target.with_name(target.name + ".part")


def size_of(path: Path) -> int:
    """Bytes of a file, 0 if there is none."""
    return path.stat().st_size if path.is_file() else 0


def fault(path: Path, file: RemoteFile) -> str:
    """How a file differs from the published one, "" if it does not."""
    if file.checksum:
        kind = HASHES[len(file.checksum)]
        found = digest_of(path, kind.replace("-", ""))
        return "" if found == file.checksum else f"{kind} is {found} where {file.checksum} is expected"
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        return f"{damaged} in it is damaged" if damaged else ""
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        return f"no whole zip archive: {error}"


def download(file: RemoteFile, target: Path, urls: Sequence[str] = ()) -> None:
    """Brings a file to `target`, in a `locked` folder, from the first of its addresses (or `urls`) that has it right.

    What an interruption leaves, `<target>.part`, is continued by the next call. UserError: no address has it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part, problems = part_of(target), []
    for url in urls or file.urls:
        begun = part.exists()
        while not (problem := transfer(url, part)):
            if not (problem := fault(part, file)):
                part.replace(target)
                print(f"{target}: from {url}, {HASHES.get(len(file.checksum), 'CRC')} right", flush=True)
                return
            part.unlink()
            if not begun:
                break
            begun = False  # its beginning may have come from elsewhere: once more from the start
        print(f"{url}: {problem}", file=sys.stderr, flush=True)
        problems.append(f"{url}: {problem}")
    raise UserError(f"{file.name} cannot be fetched ({'; '.join(problems)}): {BY_HAND}")


def transfer(url: str, part: Path) -> str:
    """Downloads until the end, resuming as long as that brings more; returns what is in the way, "" for nothing."""
    if url.startswith("file:"):
        shutil.copyfile(urllib.parse.unquote(urllib.parse.urlsplit(url).path), part)
        return ""
    if importlib.util.find_spec("requests") is None:
        raise UserError("downloading needs requests: pip install -e '.[fetch]'")
    import requests
    import urllib3

    failures = 0
    while True:
        before = size_of(part)
        try:
            receive(url, part)
            return ""
        except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
            failures = 1 if size_of(part) > before else failures + 1
            if failures == TRIES:
                return str(error)
            time.sleep(PAUSE * failures)
        except requests.RequestException as error:  # another try gets the same: 404, no address, …
            return str(error)


def receive(url: str, part: Path) -> None:
    """One request: appends what `part` lacks, or writes it anew; raises what requests and urllib3 raise."""
    import requests

    have = size_of(part)
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if have and response.status_code == 416:  # nothing comes after that; whether it is right is seen later
            return
        response.raise_for_status()
        if "html" in response.headers.get("Content-Type", ""):  # written, it would cost what `part` has
            raise requests.RequestException("a web page instead of the file: is there a login?")
        start = have if response.headers.get("Content-Range", "").startswith(f"bytes {have}-") else 0
        total = start + int(response.headers.get("Content-Length") or 0)
        pace = 0.2 if sys.stderr.isatty() else 30.0
        progress = tqdm(desc=part.stem, initial=start, total=total or None, unit="B", unit_scale=True, mininterval=pace)
        with writing(part), part.open("ab" if start else "wb") as file, progress:
            for block in response.raw.stream(BLOCK, decode_content=False):  # as stored: a .tgz is no encoding
                file.write(block)
                progress.update(len(block))
        if size_of(part) < total:  # urllib3 1 says nothing
            raise requests.ConnectionError(f"the connection ended after {size_of(part)} of {total} bytes")
