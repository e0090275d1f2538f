"""Fetches pretrained files by name into pretrained/, checked by SHA-256.

    python tools/fetch_pretrained.py --list
    python tools/fetch_pretrained.py ViT-B-16 vocabulary
    python tools/fetch_pretrained.py vocabulary --from ~/Downloads/bpe_simple_vocab_16e6.txt.gz

A file that is there already and whole is kept. `--from` takes a local copy instead of downloading. Nothing
half-written is ever left.
"""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, run

import hashlib
import http.client
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from jseg.clip.tokenizer import PRETRAINED_FOLDER, VOCABULARY_NAME, VOCABULARY_SHA256
from jseg.errors import UserError
from jseg.files import whole_file
from jseg.weights.reader import sha256_of_file

CHUNK = 2**20
TIMEOUT = 30  # seconds without an answer


@dataclass(frozen=True)
class Pretrained:
    """A file that can be fetched."""

    file_name: str
    url: str
    sha256: str
    megabytes: float  # about
    what: str


CLIP_SHA256 = "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"
FILES = {
    "ViT-B-16": Pretrained(
        "ViT-B-16.pt",
        f"https://openaipublic.azureedge.net/clip/models/{CLIP_SHA256}/ViT-B-16.pt",
        CLIP_SHA256,
        351,
        "OpenAI's CLIP ViT-B/16, the frozen towers of CLIP-RC",
    ),
    "vocabulary": Pretrained(
        VOCABULARY_NAME,
        f"https://github.com/openai/CLIP/raw/main/clip/{VOCABULARY_NAME}",
        VOCABULARY_SHA256,
        1.36,
        "byte-pair vocabulary of CLIP's text tower",
    ),
}


def blocks(url: str) -> Iterator[bytes]:
    """The content behind an address; UserError when it cannot be had."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            while block := response.read(CHUNK):
                yield block
    except (OSError, http.client.HTTPException, ValueError) as error:
        by_hand = "check the network, or download it elsewhere and pass it by --from FILE"
        raise UserError(f"{url} cannot be fetched ({error}): {by_hand}") from error


def fetch(file: Pretrained, target: Path, url: str) -> None:
    """Brings one file to its place, which stays as it is unless the SHA-256 of the content is right."""
    digest = hashlib.sha256()
    bar = tqdm(total=int(file.megabytes * 1e6), unit="B", unit_scale=True, disable=not sys.stderr.isatty())
    with whole_file(target) as written, bar:
        for block in blocks(url):
            digest.update(block)
            written.write(block)
            bar.update(len(block))
        if digest.hexdigest() != file.sha256:
            raise UserError(f"{url} has SHA-256 {digest.hexdigest()} where {file.sha256} is expected: nothing was kept")
    print(f"{target}: from {url}, SHA-256 right")


def main(arguments: list[str] | None = None) -> None:
    """Lists or fetches."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to fetch: {', '.join(FILES)}")
    parser.add_argument("--list", action="store_true", help="print what can be fetched, and whether it is there")
    parser.add_argument("--folder", type=Path, default=PRETRAINED_FOLDER, help="where to (default: pretrained/)")
    parser.add_argument("--from", dest="source", type=Path, help="take this local file instead of downloading")
    parser.add_argument("--url", help="download from this address instead (a mirror); the hash must be the same")
    parser.add_argument("--force", action="store_true", help="replace a file that is there but damaged")
    options = parser.parse_args(arguments)
    if options.list:
        for name, file in FILES.items():
            state = "there" if (options.folder / file.file_name).is_file() else "not there"
            print(f"{name:<12} {file.megabytes:>7g} MB  {file.what} ({file.file_name}, {state})")
            print(f"{'':<12} sha256 {file.sha256}")
        return
    unknown = [name for name in options.names if name not in FILES]
    if unknown or not options.names:
        problem = f"unknown name {unknown[0]!r}" if unknown else "say what to fetch"
        raise UserError(f"{problem}: choose from {', '.join(FILES)} (--list shows more)")
    if (options.source or options.url) and len(options.names) > 1:
        raise UserError("--from and --url are for one name at a time")
    for file in [FILES[name] for name in options.names]:
        target = options.folder / file.file_name
        if target.exists() and not options.force:
            if not target.is_file() or sha256_of_file(target) != file.sha256:
                raise UserError(f"{target} is there but damaged (another SHA-256): pass --force to replace it")
            print(f"{target}: already there, SHA-256 right")
            continue
        local = options.source.expanduser().absolute().as_uri() if options.source else ""
        fetch(file, target, local or options.url or file.url)


if __name__ == "__main__":
    run(main)
