"""Lays the oneDNN wheels out where Jittor looks for oneDNN, so that it downloads nothing.

Jittor 1.3.11 wants oneDNN 2.2 unpacked in `$JITTOR_HOME/.cache/jittor/mkl` (jittor/compile_extern.py, `install_mkl`)
and otherwise fetches it from a host of its own. The PyPI packages `onednn-cpu-gomp` and `onednn-devel-cpu-gomp`
2021.2.0 hold the same release; pip puts their files into the `lib` and `include` folders of the environment.
"""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path

LIBRARY_PACKAGE = "onednn-cpu-gomp"
HEADER_PACKAGE = "onednn-devel-cpu-gomp"
VERSION = "2021.2.0"
INSTALL = f"pip install {LIBRARY_PACKAGE}=={VERSION} {HEADER_PACKAGE}=={VERSION}"
JITTOR_FOLDER = "dnnl_lnx_2.2.0_cpu_gomp"


def installed_files(package: str) -> list[Path]:
    """Absolute paths of the files that pip installed for `package`; empty when it is not installed."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return []
    paths = (Path(os.path.normpath(str(file.locate()))) for file in files)
    return [path for path in paths if path.exists()]


def find_libraries() -> list[Path]:
    """Shared libraries of oneDNN (`libmkldnn.so*`, `libdnnl.so*`) brought by the wheel."""
    return [path for path in installed_files(LIBRARY_PACKAGE) if path.name.startswith(("libmkldnn.so", "libdnnl.so"))]


def find_headers() -> list[Path]:
    """Header files of oneDNN brought by the wheels, in whatever subfolder of the include folder."""
    files = installed_files(HEADER_PACKAGE) + installed_files(LIBRARY_PACKAGE)
    return [path for path in files if path.suffix in (".h", ".hpp") and "include" in path.parts]


def jittor_folder(jittor_home: Path) -> Path:
    """Where Jittor looks for oneDNN below `jittor_home`."""
    return jittor_home / ".cache" / "jittor" / "mkl" / JITTOR_FOLDER


def _below_include(header: Path) -> Path:
    """`…/include/oneapi/dnnl/dnnl.h` -> `oneapi/dnnl/dnnl.h`."""
    last = len(header.parts) - 1 - header.parts[::-1].index("include")
    return Path(*header.parts[last + 1 :])


def _link(target: Path, link: Path) -> None:
    """Makes `link` point at `target`, atomically, also when several processes do so at once."""
    if link.is_symlink() and os.readlink(link) == str(target):
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, link)


def lay_out(jittor_home: Path) -> bool:
    """Links the wheels' files into Jittor's folder.

    Returns True when Jittor will find oneDNN there (also when it lay there already), False when the wheels are missing
    or this is not Linux on x86-64; Jittor then has to run with `use_mkl=0`, which is correct but many times slower.
    """
    folder = jittor_folder(jittor_home)
    libraries, headers = find_libraries(), find_headers()
    names = {path.name for path in libraries + headers}
    if sys.platform == "linux" and {"libmkldnn.so", "dnnl.hpp"} <= names:
        for path in libraries:
            _link(path, folder / "lib" / path.name)
        for path in headers:
            _link(path, folder / "include" / _below_include(path))
    return (folder / "lib" / "libmkldnn.so").exists() and (folder / "include" / "dnnl.hpp").exists()
