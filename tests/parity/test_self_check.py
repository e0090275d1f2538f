"""Tests of the table of `python -m jseg.runtime --check`."""

from pathlib import Path

import jittor as jt
import numpy as np
import pytest

from jseg.ops import attention
from jseg.parity import self_check

NAMES = ["Jittor", "kernel", "product", "attention", "golden file"]


@pytest.fixture
def damaged(golden: Path, tmp_path: Path) -> Path:
    """A golden set whose recorded logits are off by a hair."""
    release = tmp_path / "torch_release"
    release.mkdir()
    for path in (golden / "torch_release").glob("*"):
        if path.name in ("tolerances.json", "weights_A.npz"):
            (release / path.name).symlink_to(path.absolute())
    arrays = dict(np.load(golden / "torch_release" / "forward_eval_A.npz"))
    arrays = {name: x * 1.001 if x.dtype == np.float32 and "logit" in name else x for name, x in arrays.items()}
    np.savez(release / "forward_eval_A.npz", **arrays)
    return tmp_path


def table(capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    """Name -> (state, detail) of what was printed."""
    lines = capsys.readouterr().out.splitlines()
    return {line[:12].strip(): (line[13:21].strip(), line[32:]) for line in lines}


def test_all_is_well_on_cpu(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert self_check.check("cpu", golden) == 0
    found = table(capsys)
    assert list(found) == NAMES
    assert {state for state, _ in found.values()} == {"ok"}
    assert "forward_eval" in found["golden file"][1]


def test_wrong_results_fail_with_a_remedy_and_the_rest_is_run(
    damaged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = attention.cross_attention
    monkeypatch.setattr(attention, "cross_attention", lambda q, k, v, heads: right(q, k.detach(), v, heads))
    monkeypatch.setattr(jt, "matmul", lambda a, b: 1 / 0)
    assert self_check.check("cpu", damaged) == 1
    found = table(capsys)
    assert {name: state for name, (state, _) in found.items()} == {
        "Jittor": "ok", "kernel": "ok", "product": "failed", "attention": "failed", "golden file": "failed"
    }  # fmt: skip
    assert "division by zero; pip install onednn" in found["product"][1]
    assert "wrong results" in found["attention"][1] and "JSEG_KERNELS=plain" in found["attention"][1]
    assert "tools/check_parity.py" in found["golden file"][1]


def test_without_golden_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(self_check, "GOLDEN", tmp_path / "none")
    for name in ("check_kernel", "check_product", "check_attention"):
        monkeypatch.setattr(self_check, name, lambda *_: "fine")
    assert self_check.check("cpu") == 0
    state, detail = table(capsys)["golden file"]
    assert state == "skipped" and "--golden DIR" in detail


@pytest.mark.gpu
def test_all_is_well_on_a_gpu(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert self_check.check("cuda", golden) == 0
    assert {state for state, _ in table(capsys).values()} == {"ok"}
