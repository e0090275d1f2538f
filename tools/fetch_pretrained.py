"""Fetches pretrained files by name into pretrained/, checked by SHA-256.

    python tools/fetch_pretrained.py --list
    python tools/fetch_pretrained.py ViT-B-16 vocabulary
    python tools/fetch_pretrained.py vocabulary --from ~/Downloads/bpe_simple_vocab_16e6.txt.gz

A file that is there already and whole is kept; an interrupted download goes on. `--from` takes a local copy instead.
"""

from jseg.runtime.command_line import ArgumentParser, run

from pathlib import Path

from jseg.clip.tokenizer import PRETRAINED_FOLDER, VOCABULARY_NAME, VOCABULARY_SHA256
from jseg.downloads import RemoteFile, download, fault
from jseg.errors import UserError
from jseg.files import check_writable, locked
from jseg.outputs import check_outputs

CLIP_SHA256 = "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"
CLIP_URL = f"https://openaipublic.azureedge.net/clip/models/{CLIP_SHA256}/ViT-B-16.pt"
VOCABULARY_URL = f"https://github.com/openai/CLIP/raw/main/clip/{VOCABULARY_NAME}"
FILES = {
    "ViT-B-16": RemoteFile("ViT-B-16.pt", (CLIP_URL,), 351_000_000, CLIP_SHA256),
    "vocabulary": RemoteFile(VOCABULARY_NAME, (VOCABULARY_URL,), 1_356_917, VOCABULARY_SHA256),
}


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
            state = "there" if (options.folder / file.name).is_file() else "not there"
            print(f"{name}: {file.name}, {state}, SHA-256 {file.checksum}\n    {file.urls[0]}")
        return
    unknown = [name for name in options.names if name not in FILES]
    if unknown or not options.names:
        problem = f"unknown name {unknown[0]!r}" if unknown else "say what to fetch"
        raise UserError(f"{problem}: choose from {', '.join(FILES)} (--list shows more)")
    if (options.source or options.url) and len(options.names) > 1:
        raise UserError("--from and --url are for one name at a time")
    for file in [FILES[name] for name in options.names]:
        target = options.folder / file.name
        if target.is_file() and not fault(target, file):
            print(f"{target}: already there, SHA-256 right")
            continue
        check_outputs([target], [options.source], overwrite=options.overwrite)
        own = options.source.expanduser().absolute().as_uri() if options.source else options.url
        with locked(check_writable(options.folder), f"another process downloads to {options.folder}: wait for it"):
            download(file, target, [own] if own else ())


if __name__ == "__main__":
    run(main)
