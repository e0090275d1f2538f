"""Tests of `make test-gpu` on parts that need no GPU."""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jseg import benchmark
from jseg.errors import UserError
from jseg.runtime.cuda import Toolkit
from jseg.runtime.prepare import prepare
from tools import gpu_report

GOLDEN = ("forward_eval_", "train_inductive_", "trajectory_")
ABORT = "import os; print('{}', flush=True); os.abort()"
PARTS = {
    "good one": (60, ("-c", "print('first'); print('a | b')")),
    "bad one": (60, ("-c", ABORT.format("so far"))),
    "last one": (60, ("-c", "pass")),
}


def test_every_part_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(prepare(), "toolkit", Toolkit(Path("/cuda/bin/nvcc"), Path("/cuda"), (13, 0), (), ()))
    monkeypatch.setattr(gpu_report, "parts", lambda *_: PARTS)
    report = tmp_path / "folder" / "report.md"
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", "--report", str(report)])
    assert gpu_report.main() == 1
    _, head, *_, good, bad, last = report.read_text().splitlines()
    assert "/cuda/bin/nvcc (CUDA 13.0)" in head
    assert good.startswith("| good one | ok |") and good.endswith("| a / b |")
    assert bad.startswith("| bad one | FAILED (-6) |") and bad.endswith("| so far |")
    assert last.startswith("| last one | ok |")
    assert "first" in (tmp_path / "folder" / "00_good_one.log").read_text()
    assert len(capsys.readouterr().out.splitlines()) == 4
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", "--report", str(report), "--only", "last"])
    assert gpu_report.main() == 0
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", "--only", "nothing"])
    with pytest.raises(UserError, match="no part"):
        gpu_report.main()
    monkeypatch.setattr(prepare(), "toolkit", None)
    with pytest.raises(UserError, match="no GPU to try"):
        gpu_report.main()


def test_part_is_judged_by_its_json_and_ended_with_all_that_it_started(tmp_path: Path) -> None:
    log, values, grew = tmp_path / "log", '{"seconds": 1}', '{"seconds": 1, "ok": false}'
    assert gpu_report.try_part(("-c", ABORT.format(values)), log, 60)[::2] == ("ok, then signal 6", values)
    assert gpu_report.try_part(("-c", ABORT.format(grew)), log, 60)[::2] == ("FAILED (-6)", grew)
    assert gpu_report.try_part(("-c", f"print({grew!r}); raise SystemExit(1)"), log, 60)[0] == "FAILED (1)"
    child = f"import time; time.sleep(2); open({str(tmp_path / 'late')!r}, 'w')"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert gpu_report.try_part(("-c", code), log, 1)[0] == "FAILED (over 1 s)"
    time.sleep(2)
    assert not (tmp_path / "late").exists()


def test_what_does_not_fit_into_the_minutes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = dict.fromkeys(("first", "second"), (60, ("-c", "import time; time.sleep(60)")))
    monkeypatch.setattr(gpu_report, "parts", lambda *_: waiting)
    report = tmp_path / "report.md"
    command = ["gpu_report.py", "--minutes", "0.05", "--device", "cpu", "--report", str(report)]
    monkeypatch.setattr(sys, "argv", command)
    assert gpu_report.main() == 1
    first, second = report.read_text().splitlines()[-2:]
    assert first.startswith("| first | FAILED (over 3 s) | 3 |") and second == "| second | no time | 0 |  |"


def test_short_form_in_the_order_of_worth(tmp_path: Path) -> None:
    options = argparse.Namespace(minutes=3, device="cuda", size="voc", batch=16, repeats=20)
    options.compare = "peer {batch} {precision}"
    parts = gpu_report.parts(tmp_path, options)
    names = [name.partition(",")[0] for name in parts]
    assert sorted(set(names), key=names.index) == [
        "runtime check", "train", "attention", "profile", *(f"released model {name}" for name in GOLDEN),
        "200 training steps", "demo",
    ]  # fmt: skip
    assert parts["train, bf16, peer in turn"][1][-2:] == ("--compare", "peer 16 bf16")
    assert parts["train, fp32"][0] == 40
    options.minutes = None
    assert parts.keys() - gpu_report.parts(tmp_path, options).keys() == {f"released model {name}" for name in GOLDEN}


@pytest.mark.parametrize("name", ["train, fp32", "attention", "profile", "released model forward_eval_"])
def test_rehearsal_on_the_cpu(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = tmp_path / "report.md"
    sizes = ["--device", "cpu", "--size", "shapes", "--batch", "2", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["x", "--minutes", "90", *sizes, "--only", name, "--report", str(report)])
    assert gpu_report.main() == 0, [path.read_text() for path in tmp_path.glob("*.log")]
    state, seconds, result = report.read_text().splitlines()[-1].split(" | ")[1:]
    assert state == "ok" and float(seconds) > 0
    if "released" not in name:
        assert json.loads(result.removesuffix(" |"))["seconds"] > 0


def test_attention_in_float64_has_the_gradients_of_its_output() -> None:
    generator, allowed = np.random.default_rng(0), np.tri(5, 8, k=3, dtype=bool)
    projected, prompts, outer, step = (
        generator.standard_normal(shape) for shape in ((5, 24), (3, 24), (5, 8), (5, 24))
    )

    def value(projected: np.ndarray) -> float:
        return (gpu_report.exact_attention(projected, prompts, outer, 2, allowed)[0] * outer).sum()

    _, gradient, _ = gpu_report.exact_attention(projected, prompts, outer, 2, allowed)
    slope = (value(projected + 1e-6 * step) - value(projected - 1e-6 * step)) / 2e-6
    assert abs((gradient * step).sum() - slope) < 1e-7 * abs(slope)


def test_long_run_notices_growing_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, used = [], iter([2**30, 2**30, 2**30 + gpu_report.ALLOWED_GROWTH, 2**30, 2**31])
    step = (lambda: asked.append(None), 0.0)
    monkeypatch.setitem(benchmark.TASKS, "train", lambda sizes: asked.append(sizes.batch) or step)
    monkeypatch.setattr(gpu_report.cuda, "used_memory", lambda: next(used))
    options = argparse.Namespace(size="voc", batch=16, precision="bf16")
    found = gpu_report.measure_steps(options, 60)
    assert asked[0] == 16 and len(asked) == 61
    assert (found["growth"], found["ok"]) == (67108864, True)
    assert not gpu_report.measure_steps(options, 40)["ok"]
