"""Tests of the fixed copy of Jittor. That it compiles is tested in test_cuda_compiles.py."""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jseg.errors import UserError
from jseg.runtime import toolchain
from jseg.runtime.cuda import CUDA_13, NEWER_GPUS, Fix, fixed_copy


def fingerprint(package: Path) -> str:
    """Hash of every file of Jittor that could be changed."""
    paths = sorted(path for path in package.rglob("*") if path.suffix in (".py", ".h", ".cc", ".cu"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def test_copy_is_fixed_and_the_installed_jittor_is_left_alone(tmp_path: Path) -> None:
    installed = Path(toolchain.jittor_folder())
    before = fingerprint(installed)
    fixes = CUDA_13 + NEWER_GPUS
    with ThreadPoolExecutor(4) as pool:  # as several processes at once do
        copies = set(pool.map(lambda _: fixed_copy(tmp_path, fixes), range(4)))
    (copy,) = copies
    assert list(tmp_path.iterdir()) == [copy]
    assert [path.name for path in copy.iterdir()] == ["jittor"]
    for fix in fixes:
        text = (copy / "jittor" / fix.file).read_text(encoding="utf-8")
        assert text.count(fix.old) == fix.new.count(fix.old)
        assert text.count(fix.new) >= fix.count
    assert fingerprint(installed) == before
    assert fixed_copy(tmp_path, CUDA_13) != copy


@pytest.mark.parametrize("sign", [" ", ">", "("])
def test_no_copy_where_a_shell_would_part_its_path(tmp_path: Path, sign: str) -> None:
    with pytest.raises(UserError, match=rf"no CUDA with '{re.escape(sign)}' in the cache's path .*JSEG_CACHE"):
        fixed_copy(tmp_path / f"a{sign}b", CUDA_13)
    assert list(tmp_path.iterdir()) == []
    assert fixed_copy(tmp_path / "jürgen-1.2", NEWER_GPUS).is_dir()


def test_another_jittor_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "jittor"
    package.mkdir(parents=True)
    (package / "compiler.py").write_text("max_arch = 90\nmax_arch = 90\n")
    monkeypatch.setattr(toolchain, "jittor_folder", lambda: str(package))
    monkeypatch.setattr(toolchain, "package_version", lambda _: "1.4.0")
    for fixes in (CUDA_13, NEWER_GPUS, (Fix("none.py", "a", "b"),)):
        with pytest.raises(UserError, match=r"Jittor 1\.4\.0 cannot .* pip install jittor==1\.3\.11\.0"):
            fixed_copy(tmp_path / "cache", fixes)
    assert list((tmp_path / "cache").iterdir()) == []  # nothing half-made is left
