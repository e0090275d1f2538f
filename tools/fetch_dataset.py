"""Downloads, unpacks, prepares and checks published data sets: VOC 2012 aug, PASCAL Context, COCO-Stuff 164k, ADE20K.

    pip install -e '.[fetch]'
    python tools/fetch_dataset.py voc12 context coco_stuff ade20k --root D --dry-run    # sizes, disk, what is there
    python tools/fetch_dataset.py voc12 context coco_stuff ade20k --root D
    python tools/fetch_dataset.py voc12 --root D --from ~/Downloads --from https://mirror.org/sbd/benchmark.tgz

Archives go to D/downloads, data sets to D/VOC2012, D/VOC2010, D/coco_stuff164k and D/ADEChallengeData2016. Started
again, it goes on with what is missing: a download where it stopped (if the server can do that), an archive with the
files that are not unpacked yet. Archives are verified by MD5 or SHA-256, the COCO-Stuff maps by the CRCs in their
archive. `--from` takes folders and archives on disk, which are used where they lie, and addresses, of an archive or,
with / at the end, of a folder. Proxies of the environment are used (http_proxy, https_proxy, no_proxy). Exit code 1
when a preparation or a check found something, 2 when a data set could not be fetched.
"""

from jseg.runtime.command_line import ArgumentParser, run, run_tool

from pathlib import Path

from jseg.data.published import DOWNLOADS, PUBLISHED, Archive, free_bytes, is_unpacked, unpack
from jseg.downloads import BY_HAND, download, fault, part_of, size_of
from jseg.errors import UserError
from jseg.files import check_writable, locked


def own_places(name: str, places: list[str]) -> list[str]:
    """Files and addresses of the user's own for the archive of this name."""
    full = [f"{place.rstrip('/')}/{name}" if place.endswith("/") or Path(place).is_dir() else place for place in places]
    return [place for place in full if Path(place).name == name and ("://" in place or Path(place).is_file())]


def archive_path(archive: Archive, root: Path, places: list[str]) -> Path:
    """The user's own file, or where the download lies."""
    own = [Path(place) for place in own_places(archive.name, places) if "://" not in place]
    return own[0] if own else root / DOWNLOADS / archive.name


def show_plan(names: list[str], root: Path, places: list[str], delete: bool) -> None:
    """Prints what will be downloaded and how much space it takes; UserError if there is less than that."""
    downloads, disk = [0], 0
    for name in names:
        for archive in PUBLISHED[name].archives:
            state, path = "unpacked", archive_path(archive, root, places)
            if not is_unpacked(archive, root):
                state = "to unpack"
                disk += archive.disk
                if not path.is_file():
                    downloads.append(max(archive.size - size_of(part_of(path)), 0))
                    state = f"{downloads[-1] / 1e9:.2f} of {archive.size / 1e9:.2f} GB to download"
            print(f"{name:<11} {archive.name:<32} {state}")
    disk += max(downloads) if delete else sum(downloads)
    free, hint = free_bytes(root), "" if delete else " (less with --delete-archives)"
    print(f"to download: {sum(downloads) / 1e9:.2f} GB; space for archives and what is made of them: ", end="")
    print(f"{disk / 1e9:.2f} GB{hint}; free: {free / 1e9:.2f} GB", flush=True)
    if disk > free:
        raise UserError(f"{root} has {free / 1e9:.2f} GB free, {disk / 1e9:.2f} GB are needed{hint}")


def make_ready(name: str, root: Path, places: list[str], delete: bool) -> bool:
    """Does all that a data set needs; whether preparation and check found nothing. UserError: an archive is lacking."""
    data = PUBLISHED[name]
    for archive in [archive for archive in data.archives if not is_unpacked(archive, root)]:
        path = archive_path(archive, root, places)
        if not path.is_file():
            download(archive, path, [*own_places(archive.name, places), *archive.urls])
        elif problem := fault(path, archive):
            raise UserError(f"{path}: {problem}: remove it, then start the same again")
        unpack(archive, path, root)
        print(f"{path}: unpacked", flush=True)
        if delete and path.parent == root / DOWNLOADS:
            path.unlink()
    check = ("check_dataset", "--config-file", data.config, "--fraction", "0.1", f"data.root={root / data.folder}")
    for tool, *rest in filter(None, (data.prepare, check)):
        if run_tool(tool, [text.replace("{root}", str(root)) for text in rest]):
            return False
    print(f"{name}: {root / data.folder} is ready", flush=True)
    return True


def main(arguments: list[str] | None = None) -> int:
    """Fetches; returns the exit code."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("names", nargs="+", choices=[*PUBLISHED], metavar="NAME", help=", ".join(PUBLISHED))
    parser.add_argument("--root", type=Path, required=True, help="data folder D")
    parser.add_argument("--from", dest="places", action="append", default=[], metavar="PLACE",
                        help="folder, archive or address that is tried first; can be given several times")  # fmt: skip
    parser.add_argument("--delete-archives", action="store_true", help="delete each download once it is unpacked")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    options = parser.parse_args(arguments)
    root, names, places = options.root, list(dict.fromkeys(options.names)), options.places
    archives = [archive.name for name in names for archive in PUBLISHED[name].archives]
    for place in places:
        if not any(own_places(name, [place]) for name in archives):
            raise UserError(f"--from {place}: no such file or folder, or none that has {' or '.join(archives)}")
    show_plan(names, root, places, options.delete_archives)
    if options.dry_run:
        return 0
    ready, failed = True, []
    with locked(check_writable(root), f"another process fetches data sets to {root}: wait for it"):
        for name in names:
            try:
                ready &= make_ready(name, root, places, options.delete_archives)
            except UserError as error:  # the others can still be fetched
                print(f"error: {name}: {error}", flush=True)
                failed.append(name)
    if failed:
        raise UserError(f"{', '.join(failed)} could not be fetched, see above: {BY_HAND}; then start the same again")
    return int(not ready)


if __name__ == "__main__":
    run(main)
