"""Fetches pretrained files by name into pretrained/, checked by SHA-256.

    python tools/fetch_pretrained.py --list
    python tools/fetch_pretrained.py ViT-B-16 vocabulary
    python tools/fetch_pretrained.py vocabulary --from ~/Downloads/bpe_simple_vocab_16e6.txt.gz

A file that is there already and whole is kept. `--from` takes a local copy instead of downloading.
"""

from jseg.runtime.command_line import ArgumentParser, run

import hashlib
import http.client
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from jseg.clip.tokenizer import PRETRAINED_FOLDER, VOCABULARY_NAME, VOCABULARY_SHA256
from jseg.errors import UserError
from jseg.files import whole_files
from jseg.outputs import check_outputs
from jseg.weights.reader import sha256_of_file

TIMEOUT = 30  # seconds without an answer
CLIP_SHA256 = "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"
CLIP_URL = f"https://openaipublic.azureedge.net/clip/models/{CLIP_SHA256}/ViT-B-16.pt"
VOCABULARY_URL = f"https://github.com/openai/CLIP/raw/main/clip/{VOCABULARY_NAME}"


class Pretrained(NamedTuple):
    """A file that can be fetched."""

    file_name: str
    url: str
    sha256: str


FILES = {
    "ViT-B-16": Pretrained("ViT-B-16.pt", CLIP_URL, CLIP_SHA256),
    "vocabulary": Pretrained(VOCABULARY_NAME, VOCABULARY_URL, VOCABULARY_SHA256),
}


def blocks(url: str) -> Iterator[bytes]:
    """The content behind an address, with a progress bar on a terminal; UserError when it cannot be had."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            size = int(response.headers.get("Content-Length") or 0)
            with tqdm(total=size, unit="B", unit_scale=True, disable=None) as bar:
                while block := response.read(2**20):
                    bar.update(len(block))
                    yield block
    except (OSError, http.client.HTTPException, ValueError) as error:
        by_hand = "check the network, or download it elsewhere and pass it by --from FILE"
        raise UserError(f"{url} cannot be fetched ({error}): {by_hand}") from error


def fetch(url: str, sha256: str, target: Path) -> None:
    """Brings one file to its place, which stays as it is unless the SHA-256 of the content is right."""
    digest = hashlib.sha256()
    with whole_files(target) as (written,):
        for block in blocks(url):
            digest.update(block)
            written.write(block)
        if digest.hexdigest() != sha256:
            raise UserError(f"{url} has SHA-256 {digest.hexdigest()} where {sha256} is expected: nothing was kept")
    print(f"{target}: from {url}, SHA-256 right")


def main(arguments: list[str] | None = None) -> None:
    """Lists or fetches."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to fetch: {', '.join(FILES)}")
    parser.add_argument("--list", action="store_true", help="print what can be fetched, and whether it is there")
    parser.add_argument("--folder", type=Path, default=PRETRAINED_FOLDER, help="where to (default: pretrained/)")
    parser.add_argument("--from", dest="source", type=Path, help="take this local file instead of downloading")
    parser.add_argument("--url", help="download from this address instead (a mirror); the hash must be the same")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there but damaged")
    options = parser.parse_args(arguments)
    if options.list:
        for name, file in FILES.items():
            state = "there" if (options.folder / file.file_name).is_file() else "not there"
            print(f"{name}: {file.file_name}, {state}, SHA-256 {file.sha256}\n    {file.url}")
        return
    unknown = [name for name in options.names if name not in FILES]
    if unknown or not options.names:
        problem = f"unknown name {unknown[0]!r}" if unknown else "say what to fetch"
        raise UserError(f"{problem}: choose from {', '.join(FILES)} (--list shows more)")
    if (options.source or options.url) and len(options.names) > 1:
        raise UserError("--from and --url are for one name at a time")
    for file in [FILES[name] for name in options.names]:
        target = options.folder / file.file_name
        if target.is_file() and sha256_of_file(target) == file.sha256:
            print(f"{target}: already there, SHA-256 right")
            continue
        check_outputs([target], [options.source], overwrite=options.overwrite)
        local = options.source.expanduser().absolute().as_uri() if options.source else ""
        fetch(local or options.url or file.url, file.sha256, target)


if __name__ == "__main__":
    run(main)
