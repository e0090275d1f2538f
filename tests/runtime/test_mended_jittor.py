"""Tests of the mended copy of Jittor. That it compiles is tested in test_cuda_compiles.py."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jseg.errors import UserError
from jseg.runtime import fixed_jittor as mended_jittor
from jseg.runtime import toolchain
from jseg.runtime.fixed_jittor import CUDA_13, NEWER_GPUS, Mend, mended_copy, needed_mends


def fingerprint(package: Path) -> str:
    """Hash of every file of Jittor that could be mended."""
    paths = sorted(path for path in package.rglob("*") if path.suffix in (".py", ".h", ".cc", ".cu"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def test_what_is_needed() -> None:
    assert needed_mends((12, 4), [80, 90]) == ()
    assert needed_mends((12, 8), [90, 100]) == NEWER_GPUS
    assert needed_mends((13, 0), [80]) == CUDA_13
    assert needed_mends((13, 0), [120]) == CUDA_13 + NEWER_GPUS


def test_copy_is_mended_and_the_installed_jittor_is_left_alone(tmp_path: Path) -> None:
    installed = Path(toolchain.jittor_folder())
    before = fingerprint(installed)
    mends = CUDA_13 + NEWER_GPUS
    copy = mended_copy(tmp_path, mends)
    assert [path.name for path in copy.iterdir()] == ["jittor"]
    for mend in mends:
        text = (copy / "jittor" / mend.file).read_text()
        assert text.count(mend.old) == mend.new.count(mend.old)
        assert text.count(mend.new) >= mend.count
    assert "::cuda::maximum<>{{}}" in (copy / "jittor" / "other" / "code_softmax.py").read_text()
    assert fingerprint(installed) == before
    for name in ("compiler.py", "other/code_softmax.py"):
        compile((copy / "jittor" / name).read_text(), name, "exec")
    assert mended_copy(tmp_path, mends) == copy
    assert mended_copy(tmp_path, CUDA_13) != copy


def test_another_jittor_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "jittor"
    package.mkdir(parents=True)
    (package / "compiler.py").write_text("max_arch = 90\nmax_arch = 90\n")
    monkeypatch.setattr(toolchain, "jittor_folder", lambda: str(package))
    monkeypatch.setattr(toolchain, "jittor_version", lambda: "1.4.0")
    for mends in (CUDA_13, NEWER_GPUS, (Mend("none.py", "a", "b"),)):
        with pytest.raises(UserError, match=r"Jittor 1\.4\.0 cannot .* pip install jittor==1\.3\.11\.0") as caught:
            mended_copy(tmp_path / "cache", mends)
        assert "\n" not in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []  # nothing half-made is left


def test_several_processes_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        copies = list(pool.map(lambda _: mended_jittor.mended_copy(tmp_path, CUDA_13), range(4)))
    assert len(set(copies)) == 1
    assert list(tmp_path.iterdir()) == [copies[0]]
    for mend in CUDA_13:
        assert mend.new in (copies[0] / "jittor" / mend.file).read_text()
