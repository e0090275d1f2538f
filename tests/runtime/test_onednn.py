"""Tests of the layout of oneDNN's wheels for Jittor."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from jseg.runtime import prepare as onednn

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the wheels are for Linux")


def make_wheels(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes the files that the two wheels bring below `root` and makes `onednn` find them."""
    for name in (
        "lib/libmkldnn.so",
        "lib/libdnnl.so.2",
        "include/dnnl.hpp",
        "include/oneapi/dnnl/dnnl.h",
        "doc/LICENSE",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(str(root))
    files = {
        onednn.LIBRARY_PACKAGE: [root / "lib/libmkldnn.so", root / "lib/libdnnl.so.2", root / "doc/LICENSE"],
        onednn.HEADER_PACKAGE: [root / "include/dnnl.hpp", root / "include/oneapi/dnnl/dnnl.h"],
    }
    monkeypatch.setattr(onednn, "installed_files", lambda package: files[package])


def test_files_lie_where_jittor_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheels(tmp_path / "env include", monkeypatch)
    home = tmp_path / "home with space"
    assert onednn.lay_out(home)
    folder = home / ".cache" / "jittor" / "mkl" / "dnnl_lnx_2.2.0_cpu_gomp"
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {"lib/libmkldnn.so", "lib/libdnnl.so.2", "include/dnnl.hpp", "include/oneapi/dnnl/dnnl.h"}


def test_links_follow_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        make_wheels(tmp_path / name, monkeypatch)
        assert onednn.lay_out(tmp_path / "home")
        assert onednn.lay_out(tmp_path / "home")  # nothing to do the second time
        library = onednn.jittor_folder(tmp_path / "home") / "lib" / "libmkldnn.so"
        assert library.read_text() == str(tmp_path / name)


def test_without_wheels_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "installed_files", lambda _: [])
    assert not onednn.lay_out(tmp_path)
    assert not onednn.jittor_folder(tmp_path).exists()


def test_links_of_a_removed_environment_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheels(tmp_path / "env", monkeypatch)
    assert onednn.lay_out(tmp_path / "home")
    (tmp_path / "env/lib/libmkldnn.so").unlink()
    monkeypatch.setattr(onednn, "installed_files", lambda _: [])
    assert not onednn.lay_out(tmp_path / "home")


def test_installed_wheels_are_found() -> None:
    if not onednn.installed_files(onednn.LIBRARY_PACKAGE):
        pytest.skip("the oneDNN wheels are not installed")
    assert {"libmkldnn.so", "libdnnl.so"} <= {path.name for path in onednn.find_libraries()}
    assert {"dnnl.hpp", "dnnl.h", "dnnl_version.h"} <= {path.name for path in onednn.find_headers()}
