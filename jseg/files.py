"""Files: written whole or not at all, checked before reading; the cache folder."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import jseg
from jseg.errors import CannotWrite, UserError

TEMPORARY = ".jseg."  # how names of unfinished files begin
JSON_MARK = "jseg"  # a key of all JSON that jseg writes


def shipped(name: str) -> Path:
    """Path of a file or folder that comes with jseg (configs/…, pretrained/…, examples/…, tools/…), in a checkout or
    an installed package.
    """
    package = Path(jseg.__file__).resolve().parent
    packaged = package / name  # first: beside an installed package lie folders of others
    return packaged if packaged.exists() else package.parent / name


def cache_folder() -> Path:
    """Folder for everything jseg caches: `JSEG_CACHE`, else the one that install.sh has filled with compiled kernels
    (`jseg_cache` in the environment is a link to it), else `$XDG_CACHE_HOME/jseg`, else `~/.cache/jseg`.
    """
    named, base = os.environ.get("JSEG_CACHE"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    filled = os.path.join(sys.prefix, "jseg_cache")
    if not named and os.path.islink(filled):
        named = os.readlink(filled)
    return Path(os.path.abspath(os.path.expanduser(named or f"{base}/jseg")))


def save_details(text: str) -> str:
    """Writes a long text about an error to a file of the cache folder or the temporary folder; returns its path."""
    for folder in (cache_folder(), Path(os.environ.get("TMPDIR") or "/tmp")):
        path = folder / f"error_{os.getpid()}_{time.time_ns()}.txt"
        try:
            write_whole(path, text.encode("utf-8", "backslashreplace"))
            return str(path)
        except CannotWrite:
            continue
    return "no file, for want of space: JSEG_DEBUG=1 prints them"


@contextmanager
def writing(*paths: str | Path) -> Iterator[None]:
    """Turns an OSError inside, which may not say where, into CannotWrite for `paths`."""
    try:
        yield
    except OSError as error:
        names = " and ".join(map(str, paths))
        raise CannotWrite(f"cannot write {names} ({error.strerror or error}): {remedy(error)}") from error


@contextmanager
def locked(folder: Path, problem: str) -> Iterator[None]:
    """Keeps other processes from what is inside for the same folder: UserError with `problem` for the second one."""
    descriptor = os.open(folder, os.O_RDONLY)  # the folder itself is locked: no file is left behind
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # others: a network file system without locks, as if there were none
            if isinstance(error, BlockingIOError):
                raise UserError(problem) from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def whole_files(*paths: str | Path) -> Iterator[list[BinaryIO]]:
    """Yields binary files to write to, which appear at `paths` when the `with` block ends; none does if it fails.

    Missing parent folders are made. Once the block has ended the files survive a loss of power. Raises CannotWrite.
    """
    files: list[BinaryIO] = []
    with writing(*paths):
        try:
            for path in map(Path, paths):
                path.parent.mkdir(parents=True, exist_ok=True)
                name = f"{TEMPORARY}{os.getpid()}_{time.time_ns()}_{len(files)}.{path.name[:40]}.tmp"
                files.append(open(path.parent / name, "xb"))  # noqa: SIM115  # closed below
            yield files
            for file in files:
                file.flush()
                os.fsync(file.fileno())
            for path, file in zip(paths, files, strict=True):
                os.replace(file.name, path)
            for parent in {Path(path).parent for path in paths}:
                folder = os.open(parent, os.O_RDONLY)
                os.fsync(folder)  # makes the new names as lasting as the content
                os.close(folder)
        finally:
            for file in files:
                with suppress(OSError):  # it may try to write once more
                    file.close()
                if os.path.exists(file.name):
                    os.unlink(file.name)


def write_whole(path: str | Path, data: bytes) -> None:
    """Writes `data` to `path` as `whole_files` does."""
    with whole_files(path) as (file,):
        file.write(data)


def write_if_changed(path: Path, text: str) -> None:
    """Writes text to a file, as `write_whole`, unless it holds that already."""
    if not path.exists() or path.read_text(encoding="utf-8", errors="replace") != text:
        write_whole(path, text.encode())


def as_json(value: dict | list) -> bytes:
    """`value` as indented JSON, a dict with jseg's mark; raises ValueError for NaN and infinities (JSON has none)."""
    marked = {JSON_MARK: jseg.__version__, **value} if isinstance(value, dict) else value
    return (json.dumps(marked, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: str | Path, value: dict | list) -> None:
    """Writes `as_json(value)`, whole or not at all."""
    write_whole(path, as_json(value))


@contextmanager
def whole_folder(folder: Path, outdated: bool = False) -> Iterator[Path | None]:
    """Yields a new folder to fill, which becomes `folder` when the `with` block ends; None when `folder` exists.

    One that is `outdated` is replaced, with none between two renames. Of several processes that make the same folder at
    once, one's stays and the others' are dropped.
    """
    if folder.is_dir() and not outdated:
        yield None
        return
    temporary = folder.parent / f".{folder.name}.{os.getpid()}_{time.time_ns()}"
    old = temporary.with_name(f"{temporary.name}.old")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if outdated:
            with suppress(FileNotFoundError):
                os.rename(folder, old)
        os.rename(temporary, folder)
    except OSError as error:
        if not folder.is_dir():  # else another process was first
            raise CannotWrite(f"cannot make {folder} ({error.strerror or error}): {remedy(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_writable(folder: str | Path) -> Path:
    """Makes `folder` if it is missing and returns it; raises UserError when no file can be written into it."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"folder {folder} cannot be written ({error.strerror or error}): choose another") from error
    return folder


def remedy(error: OSError) -> str:
    """Returns what the user can do about a file that could not be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return "free some space there" if full else "choose a folder that can be written"


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a file for reading, in binary; UserError unless it is a regular one (a pipe may wait for ever)."""
    if not os.path.exists(path):
        raise UserError(f"file {path} does not exist")
    if not os.path.isfile(path):
        raise UserError(f"{path} is {'a folder' if os.path.isdir(path) else 'a pipe or a device'}, not a file")
    return open(path, "rb")


def digest_of(path: str | Path, kind: str = "sha256") -> str:
    """Checksum of a file of any size, hexadecimal; `kind` as hashlib names it."""
    digest = hashlib.new(kind, usedforsecurity=False)  # FIPS has no MD5 otherwise
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def read_lines(path: Path, key: str, hint: str = "") -> tuple[str, ...]:
    """The lines of a text file that are not blank, without blanks around them; UserError with `key` and `hint`."""
    try:
        with open_regular(path) as file:
            lines = file.read().decode("utf-8-sig").splitlines()
    except (UserError, OSError, ValueError) as error:
        raise UserError(f"{key}: no text file with one a line ({error}){hint}") from error
    return tuple(line.strip() for line in lines if line.strip())
