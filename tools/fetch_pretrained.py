"""Fetches pretrained files by name into pretrained/, checked by SHA-256.

    python tools/fetch_pretrained.py --list
    python tools/fetch_pretrained.py ViT-B-16 vocabulary
    python tools/fetch_pretrained.py vocabulary --from ~/Downloads/bpe_simple_vocab_16e6.txt.gz

A file that is there already and whole is kept. `--from` takes a local copy instead of downloading; the vocabulary is
also taken from an installed open_clip or clip package. Nothing half-written is ever left.
"""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, run

import argparse
import hashlib
import http.client
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from jseg.clip.tokenizer import PRETRAINED_FOLDER, VOCABULARY_NAME, VOCABULARY_SHA256, installed_vocabularies
from jseg.errors import UserError
from jseg.files import whole_file
from jseg.weights.reader import sha256_of_file

CHUNK = 2**20
TIMEOUT = 30  # seconds without an answer
SURPLUS = 1.5  # a server that sends more than this many times the expected size sends something else


@dataclass(frozen=True)
class Pretrained:
    """A file that can be fetched."""

    file_name: str
    url: str
    sha256: str
    megabytes: float  # about
    what: str
    copies: Callable[[], list[Path]] = list  # where a copy may lie on this machine


FILES = {
    "ViT-B-16": Pretrained(
        "ViT-B-16.pt",
        "https://openaipublic.azureedge.net/clip/models/"
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt",
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
        351,
        "OpenAI's CLIP ViT-B/16, the frozen towers of CLIP-RC",
    ),
    "vocabulary": Pretrained(
        VOCABULARY_NAME,
        f"https://github.com/openai/CLIP/raw/main/clip/{VOCABULARY_NAME}",
        VOCABULARY_SHA256,
        1.36,
        "byte-pair vocabulary of CLIP's text tower",
        installed_vocabularies,
    ),
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line -> options."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to fetch: {', '.join(FILES)}")
    parser.add_argument("--list", action="store_true", help="print what can be fetched, and whether it is there")
    parser.add_argument("--folder", type=Path, default=PRETRAINED_FOLDER, help="where to (default: pretrained/)")
    parser.add_argument("--from", dest="source", type=Path, help="take this local file instead of downloading")
    parser.add_argument("--url", help="download from this address instead (a mirror); the hash must be the same")
    parser.add_argument("--force", action="store_true", help="replace a file that is there but damaged")
    return parser.parse_args(arguments)


def copy_checked(source: BinaryIO, target: Path, file: Pretrained, origin: str) -> None:
    """Copies an open source to `target`, which appears only if the SHA-256 is right.

    Raises:
        UserError: another hash, a source that breaks off, or a target that cannot be written.
    """
    digest, count = hashlib.sha256(), 0
    expected = int(file.megabytes * 1e6)
    with (
        whole_file(target) as written,
        tqdm(total=expected, unit="B", unit_scale=True, desc=file.file_name, disable=not sys.stderr.isatty()) as bar,
    ):
        while block := _read(source, origin):
            digest.update(block)
            count += len(block)
            if count > SURPLUS * expected + CHUNK:
                raise UserError(f"{origin} is much larger than {file.file_name} should be: nothing was kept")
            written.write(block)
            bar.update(len(block))
        if digest.hexdigest() != file.sha256:
            raise UserError(
                f"{origin} has SHA-256 {digest.hexdigest()} ({count} bytes) where {file.sha256} is expected: cut off "
                "or another file; nothing was kept"
            )


def _read(source: BinaryIO, origin: str) -> bytes:
    """The next block; a broken connection or disk is a user error."""
    try:
        return source.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"{origin} broke off ({error}): try again") from error


def download(url: str, target: Path, file: Pretrained) -> None:
    """Downloads `url` to `target`.

    Raises:
        UserError: no connection, no such file there, or not the file that is expected.
    """
    by_hand = "download it elsewhere and pass it by --from FILE"
    try:
        response = urllib.request.urlopen(url, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        raise UserError(f"{url} answers {error.code} {error.reason}: {by_hand}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"{url} cannot be reached ({reason}): check the network, or {by_hand}") from error
    with response:
        copy_checked(response, target, file, url)


def fetch(file: Pretrained, options: argparse.Namespace) -> None:
    """Brings one file into the folder and says where it lies and where it came from.

    Raises:
        UserError: it cannot be had, or a damaged one is in its place.
    """
    target = options.folder / file.file_name
    if target.exists() and not options.force:
        if not target.is_file() or sha256_of_file(target) != file.sha256:
            raise UserError(f"{target} is there but damaged (another SHA-256): pass --force to replace it")
        print(f"{target}: already there, SHA-256 right")
        return
    copies = [path for path in file.copies() if path.is_file() and sha256_of_file(path) == file.sha256]
    local = options.source or (copies[0] if copies and options.url is None else None)
    if local is None:
        origin = options.url or file.url
        download(origin, target, file)
    else:
        origin = str(local.expanduser())
        if not Path(origin).is_file():
            raise UserError(f"--from {origin} does not exist")
        with open(origin, "rb") as source:
            copy_checked(source, target, file, origin)
    print(f"{target}: from {origin}, SHA-256 right")


def format_list(folder: Path) -> str:
    """The files that can be fetched, two lines each."""
    lines = []
    for name, file in FILES.items():
        state = "there" if (folder / file.file_name).is_file() else "not there"
        lines.append(f"{name:<12} {file.megabytes:>7g} MB  {file.what} ({file.file_name}, {state})")
        lines.append(f"{'':<12} sha256 {file.sha256}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Lists or fetches."""
    options = parse_arguments(arguments)
    if options.list:
        print(format_list(options.folder))
        return
    unknown = [name for name in options.names if name not in FILES]
    if unknown or not options.names:
        problem = f"unknown name {unknown[0]!r}" if unknown else "say what to fetch"
        raise UserError(f"{problem}: choose from {', '.join(FILES)} (--list shows more)")
    if (options.source or options.url) and len(options.names) > 1:
        raise UserError("--from and --url are for one name at a time")
    for name in options.names:
        fetch(FILES[name], options)


if __name__ == "__main__":
    run(main)
