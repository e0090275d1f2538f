"""Collects all that a machine without Internet needs to install jseg into one folder.

    python tools/pack_wheels.py --python 3.12 --cuda13 OUT      # here, with Internet
    sh OUT/install.sh VENV                                      # there

The folder holds wheels for Linux on x86-64 and the given Python, jseg and Jittor (which PyPI has as source only) built
here, `install.sh`, and `sizes.txt`, the size report. The other machine needs Python with venv and headers, and g++; for
a GPU the NVIDIA driver as well, and with `--cuda13` nothing else. `--archive` packs all of it into `OUT.tar.xz`, many
times smaller than the wheels where these hold the same file several times.
"""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, run

import lzma
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from jseg.errors import UserError
from jseg.files import whole_file, write_whole
from jseg.runtime.toolchain import JITTOR

REPOSITORY = Path(__file__).parents[1]
PYTHONS = ("3.10", "3.11", "3.12")
# of glibc; pip wants each one named. Wheels for newer ones would not run on a common cluster
PLATFORMS = ["manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64"]
PLATFORMS += [f"manylinux_2_{minor}_x86_64" for minor in range(5, 29)]
MIB = 2**20


def pip(*arguments: str) -> None:
    """Runs pip; raises UserError when it fails (its own messages have then been printed)."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    if subprocess.run(command).returncode != 0:
        raise UserError(f"pip failed (see above): {shlex.join(command)}")


def pack(folder: Path, python: str, extras: list[str], also: list[str]) -> list[str]:
    """Fills `folder` with wheels; returns the requirements that can be installed from it alone."""
    folder.mkdir(parents=True, exist_ok=True)
    if list(folder.glob("*.whl")):
        raise UserError(f"{folder} holds wheels already: choose another folder, or empty it")
    wanted = [f"jseg[{','.join(extras)}]" if extras else "jseg", *also]
    pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(REPOSITORY), JITTOR)
    tag = "cp" + python.replace(".", "")
    target = ["--python-version", python, "--implementation", "cp", "--abi", tag, "--abi", "abi3", "--abi", "none"]
    for platform in PLATFORMS:
        target += ["--platform", platform]
    pip("download", "--quiet", "--only-binary", ":all:", *target, "--find-links", str(folder), "--dest", str(folder),
        *wanted)  # fmt: skip
    return wanted


def leave_out(folder: Path, names: list[str]) -> None:
    """Removes the wheels of packages that the other machine has; raises UserError for a name that none has."""
    for name in names:
        wanted = re.sub("[-_.]+", "-", name).lower()
        found = [
            wheel for wheel in folder.glob("*.whl") if wheel.name.partition("-")[0].lower().replace("_", "-") == wanted
        ]
        if not found:
            raise UserError(f"--without {name}: no such wheel in {folder}: delete the folder and try again without it")
        for wheel in found:
            wheel.unlink()


def install_script(python: str, requirements: list[str], complete: bool = True) -> str:
    """The shell script that installs `requirements` from the folder that it lies in, without network.

    Args:
        complete: whether the folder holds all; else the virtual environment sees the machine's own packages too.
    """
    options = "" if complete else "--system-site-packages "
    return f"""#!/bin/sh
# sh install.sh VENV   makes a virtual environment and installs jseg into it from this folder alone
# PYTHON=/path/python{python} chooses the interpreter, PIP_ARGS="…" further arguments of pip
set -eu
[ $# = 1 ] || {{ echo "usage: sh install.sh VENV" >&2; exit 2; }}
here=$(cd "$(dirname "$0")" && pwd)
python=${{PYTHON:-python{python}}}
"$python" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "{python}")' ||
    {{ echo "these wheels are for Python {python}: set PYTHON=/path/python{python}" >&2; exit 2; }}
"$python" -m venv {options}"$1"
"$1/bin/python" -m pip install --disable-pip-version-check --no-index --find-links "$here" ${{PIP_ARGS:-}} \\
    {shlex.join(requirements)}
"$1/bin/python" -m jseg.runtime
"""


def archive(folder: Path) -> Path:
    """Packs `folder` into one file beside it, wheels without compression of their own; returns its path."""
    path = folder.with_name(f"{folder.name}.tar.xz")
    # a filter for machine code, and a window in which a library finds its copy
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 128 * MIB}]
    with (
        whole_file(path) as target,
        lzma.open(target, "w", filters=filters) as packed,
        tarfile.open(fileobj=packed, mode="w|") as tar,
        tempfile.TemporaryDirectory() as scratch,
    ):
        for file in sorted(folder.iterdir()):
            source = file
            if file.suffix == ".whl":
                source = Path(scratch, file.name)
                with zipfile.ZipFile(file) as wheel, zipfile.ZipFile(source, "w") as stored:
                    for entry in wheel.infolist():
                        data = wheel.read(entry)
                        entry.compress_type = zipfile.ZIP_STORED
                        stored.writestr(entry, data)
            tar.add(source, arcname=f"{folder.name}/{file.name}")
            if source is not file:
                source.unlink()
    return path


def size_report(folder: Path) -> str:
    """One line for each wheel, the largest first, and their sum."""
    sizes = sorted(((path.stat().st_size, path.name) for path in folder.glob("*.whl")), reverse=True)
    lines = [f"{size / MIB:9.1f} MiB  {name}" for size, name in sizes]
    return "\n".join([*lines, f"{sum(size for size, _ in sizes) / MIB:9.1f} MiB  {len(sizes)} wheels"]) + "\n"


def main() -> None:
    """Packs the folder and prints the size report."""
    parser = ArgumentParser(prog="pack_wheels.py", description="Collect wheels for a machine without Internet.")
    parser.add_argument("folder", type=Path, metavar="OUT", help="folder to fill")
    parser.add_argument("--python", choices=PYTHONS, required=True, help="Python of the other machine")
    parser.add_argument("--cuda13", action="store_true", help="pack a CUDA 13 toolkit too (for drivers from 580 on)")
    parser.add_argument(
        "--also", action="append", default=[], metavar="REQUIREMENT", help="pack this too, such as pytest (repeatable)"
    )
    parser.add_argument("--archive", action="store_true", help="also pack the folder into OUT.tar.xz (takes minutes)")
    parser.add_argument(
        "--without", action="append", default=[], metavar="NAME",
        help="leave this package out, which the other machine's Python has, such as numpy below 2 (repeatable)",
    )  # fmt: skip
    args = parser.parse_args()
    args.folder = args.folder.absolute()
    requirements = pack(args.folder, args.python, ["cuda13"] if args.cuda13 else [], args.also)
    leave_out(args.folder, args.without)
    write_whole(args.folder / "install.sh", install_script(args.python, requirements, not args.without).encode())
    report = size_report(args.folder)
    write_whole(args.folder / "sizes.txt", report.encode())
    print(report, end="")
    if args.archive:
        path = archive(args.folder)
        print(f"{path.stat().st_size / MIB:9.1f} MiB  {path}")


if __name__ == "__main__":
    run(main)
