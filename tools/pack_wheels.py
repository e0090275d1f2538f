"""Collects all that a machine without Internet needs to install jseg into one folder.

    python tools/pack_wheels.py --python 3.12 --cuda13 OUT      # here, with Internet
    sh OUT/install.sh VENV                                      # there

    python3.12 tools/pack_wheels.py --python 3.12 --cuda13 --kernels 9.0 /opt/jseg OUT

The folder holds wheels for Linux on x86-64 and the given Python, jseg and Jittor (which PyPI has as source only) built
here, and `install.sh`. The other machine needs Python with venv and headers, and g++; for a GPU the NVIDIA driver as
well, and with `--cuda13` nothing else. `--kernels` also compiles here, without a GPU, what Jittor would compile there:
all that `gpu_report.py --minutes` runs, for GPUs of one compute capability (docs/gpus.md).
"""

from jseg.runtime.command_line import ArgumentParser, run

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import numpy as np

from jseg.errors import UserError
from jseg.files import write_whole
from jseg.outputs import check_outputs
from jseg.runtime import cuda, toolchain
from jseg.runtime.toolchain import JITTOR

REPOSITORY = Path(__file__).parents[1]
PACKAGE = "jseg-clip"  # the name in pyproject.toml; `jseg` on PyPI is another project
# of glibc; pip wants each one named. Wheels for newer ones would not run on a common cluster
PLATFORMS = ["manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64"]
PLATFORMS += [f"manylinux_2_{minor}_x86_64" for minor in range(5, 29)]
MIB = 2**20


def pip(*arguments: str) -> None:
    """Runs pip; raises UserError when it fails (its own messages have then been printed)."""
    if subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]).returncode != 0:
        raise UserError(f"pip failed (see above): pip {shlex.join(arguments)}")


def pack(folder: Path, python: str, extras: list[str], also: list[str]) -> list[str]:
    """Fills `folder` with wheels; returns the requirements that can be installed from it alone."""
    folder.mkdir(parents=True, exist_ok=True)
    if list(folder.glob("*.whl")):
        raise UserError(f"{folder} holds wheels already: choose another folder, or empty it")
    wanted = [f"{PACKAGE}[{','.join(extras)}]" if extras else PACKAGE, *also]
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
        prefix = re.sub("[-_.]+", "_", name).lower() + "-"
        found = [wheel for wheel in folder.glob("*.whl") if wheel.name.lower().startswith(prefix)]
        if not found:
            raise UserError(f"--without {name}: no such wheel in {folder}: delete the folder and try again without it")
        found[0].unlink()


def compile_kernels(folder: Path, capability: str, cache: Path, options: tuple[str, ...] = ()) -> None:
    """Fills the compile cache `cache`/jittor on a stand-in for a GPU, on which nothing is computed, and packs it."""
    sys.path.insert(0, str(REPOSITORY))  # the stand-in is of the tests: this tool packs a checkout, which has them
    from tests.standin_gpu.build import find_nvcc, standin_gpu

    nvcc, headers = find_nvcc(), sysconfig.get_path("include")
    places = [cuda.home_of(nvcc), *cuda.wheel_folders()] if nvcc else []
    if not any((place / "include" / "cublas_v2.h").is_file() for place in places):
        raise UserError(f"--kernels needs the headers of CUDA 13 here, too: {cuda.WHEELS}")
    ahead = toolchain.compiled_ahead(cache / "jittor")
    ahead.mkdir(parents=True, exist_ok=True)
    if not (ahead / toolchain.HEADERS).is_dir():  # the other machine then needs none
        shutil.copytree(headers, ahead / toolchain.HEADERS)
        shutil.copy(sysconfig.get_config_h_filename(), ahead / toolchain.HEADERS / "pyconfig.h")
    environment = {**os.environ, **standin_gpu(nvcc), "STANDIN_CAPABILITY": capability.replace(".", ""),
                   "JSEG_CACHE": str(cache), "PYTHONPATH": str(REPOSITORY)}  # fmt: skip
    for name in ("JITTOR_HOME", "cc_flags", "nvcc_flags", "kernel_flags", "cache_name"):
        environment.pop(name, None)
    command = [sys.executable, str(REPOSITORY / "tools" / "gpu_report.py"), "--minutes", "600", "--batch", "2",
               "--repeats", "1", "--report", str(cache / "report" / "report.md"), *options]  # fmt: skip
    subprocess.call(command, env=environment)  # "FAILED": nothing is computed here
    text, demo = cache / "report" / "text.npy", cache / "report" / "demo"  # which has ended at class embeddings of 0
    text.parent.mkdir(parents=True, exist_ok=True)
    np.save(text, np.eye(20, 128, dtype=np.float32))
    for task in (("train",), ("val", "--resume")):
        subprocess.call([sys.executable, str(REPOSITORY / "tools" / "run_net.py"), "--config-file", "shapes_demo",
                         "--work-dir", str(demo), "--device", "cuda", "--task", *task, f"text.embeddings={text}"],
                        env=environment)  # fmt: skip
    if not list(ahead.glob(f"*/cu*_sm_{capability.replace('.', '')}/jit/*.so")):
        raise UserError(f"no kernel was compiled: see {cache / 'report'}")
    with tarfile.open(folder / "kernels.tar.gz", "w:gz") as archive:
        name = str(ahead.relative_to(cache))
        # links to the toolkit and the fixed Jittor are made there; precompiled headers are large, and only save time
        left_out = re.compile(f"{name}/(cuda|jittor)-|.*[.]gch$")
        archive.add(ahead, name, filter=lambda file: None if left_out.match(file.name) else file)


def install_script(python: str, requirements: list[str], complete: bool = True, cache: Path | None = None) -> str:
    """The shell script that installs `requirements` from the folder that it lies in, and kernels to `cache`, if any."""
    kernels = f"""\
mkdir -p {cache} && tar -xzf "$here/kernels.tar.gz" -C {cache} && ln -sfn {cache} "$1/jseg_cache" ||
    echo "{cache} cannot be written: kernels will be compiled when they are first used" >&2
""" if cache else ""  # fmt: skip
    # Python then finds the machine's own packages too, after these; they can be those of another virtual environment
    others = "" if complete else f"""\
"$python" -c 'import sys
for path in sys.path: path.endswith("-packages") and print(f"import site; site.addsitedir({{path!r}})")' \\
    > "$1/lib/python{python}/site-packages/machine.pth"
"""  # fmt: skip
    return f"""#!/bin/sh
# sh install.sh VENV   makes a virtual environment and installs jseg into it from this folder alone
# PYTHON=/path/python{python} chooses the interpreter, PIP_ARGS="…" further arguments of pip
set -eu
[ $# = 1 ] || {{ echo "usage: sh install.sh VENV" >&2; exit 2; }}
here=$(cd "$(dirname "$0")" && pwd)
python=${{PYTHON:-python{python}}}
"$python" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "{python}")' ||
    {{ echo "these wheels are for Python {python}: set PYTHON=/path/python{python}" >&2; exit 2; }}
"$python" -m venv "$1"
{others}"$1/bin/python" -m pip install --disable-pip-version-check --no-index --find-links "$here" ${{PIP_ARGS:-}} \\
    {shlex.join(requirements)}
{kernels}"$1/bin/python" -m jseg.runtime
"""


def main() -> None:
    """Packs the folder and prints the sizes."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("folder", type=Path, metavar="OUT", help="folder to fill")
    parser.add_argument("--python", choices=("3.10", "3.11", "3.12"), required=True, help="Python of the other machine")
    parser.add_argument("--cuda13", action="store_true", help="pack a CUDA 13 toolkit too (for drivers from 580 on)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    parser.add_argument(
        "--also", action="append", default=[], metavar="REQUIREMENT", help="pack this too, such as pytest (repeatable)"
    )
    parser.add_argument(
        "--without", action="append", default=[], metavar="NAME",
        help="leave this package out, which the other machine's Python has, such as numpy below 2 (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--kernels", nargs=2, metavar=("CAPABILITY", "CACHE"),
        help="pack compiled kernels too, such as `9.0 /opt/jseg`: of the GPU, and a folder for them, the same there",
    )  # fmt: skip
    args = parser.parse_args()
    capability, cache = args.kernels or ("", None)
    if cache and not re.fullmatch(r"\d+\.\d (/[\w.-]+)+", f"{capability} {cache}"):
        raise UserError(f"--kernels {capability} {cache}: expected one such as 9.0 and a plain absolute path")
    if cache and args.python != f"3.{sys.version_info.minor}":
        raise UserError(f"--kernels compiles for the Python that runs it: run this with python{args.python}")
    args.folder = args.folder.absolute()
    names = ["install.sh", "kernels.tar.gz"] if cache else ["install.sh"]
    check_outputs([args.folder / name for name in names], overwrite=args.overwrite)
    requirements = pack(args.folder, args.python, ["cuda13"] if args.cuda13 else [], args.also)
    leave_out(args.folder, args.without)
    if cache:
        compile_kernels(args.folder, capability, Path(cache))
    script = install_script(args.python, requirements, not args.without, Path(cache) if cache else None)
    write_whole(args.folder / "install.sh", script.encode())
    sizes = sorted(((path.stat().st_size, path.name) for path in args.folder.glob("*.whl")), reverse=True)
    for size, name in [*sizes, (sum(size for size, _ in sizes), f"{len(sizes)} wheels")]:
        print(f"{size / MIB:9.1f} MiB  {name}")


if __name__ == "__main__":
    run(main)
