"""The benchmark: counted operations against the sizes that they are counted from, and the report on timings."""

import json
import sys

import pytest

from jseg import benchmark
from jseg.benchmark import Sizes, as_text, attention_operations, make_result, operations
from jseg.config import ModelConfig
from jseg.engine.train import StepReport
from jseg.errors import UserError
from tools.benchmark import compare, main


def test_attention_of_the_paper_sizes() -> None:
    """12 heads of 64 over 1025 queries and 1035 keys, own regions, 16 regions with 65 keys: 3.26 GFLOP."""
    expected = 4 * 768 * (1025 * 1035 + 1024 + 16 * 65)
    assert attention_operations(Sizes(ModelConfig(), 20, 512)) == expected


@pytest.mark.parametrize(("classes", "prompts", "tera"), [(20, 10, 0.24), (171, 100, 0.33)])
def test_forward_of_the_paper_sizes(classes: int, prompts: int, tera: float) -> None:
    one, four = (operations(Sizes(ModelConfig(prompts=prompts), classes, 512, batch), False) for batch in (1, 4))
    assert one == pytest.approx(tera * 1e12, rel=0.05) and four == 4 * one


def test_training_of_the_paper_sizes() -> None:
    assert operations(Sizes(ModelConfig(), 15, 512), training=True) == pytest.approx(0.58e12, rel=0.03)


def test_floor_and_share_reached() -> None:
    settings = {"task": "forward", "size": "voc", "batch": 1, "device": "cpu", "threads": 2}
    timing = {"seconds": 2.0, "min": 1.0, "max": 4.0, "first": 9.0, "peak_gib": 2.0}
    values = make_result(settings, 1e11, timing, rate=1e11)
    assert (values["floor_seconds"], values["achieved"], values["peak_gib"]) == (1.0, 0.5, 2.0)
    assert "floor 1.0000 s, 50% reached" in as_text(values)


def command(code: str) -> str:
    return f'{sys.executable} -c "{code}"'


def test_comparison_pair_by_pair(capsys: pytest.CaptureFixture[str]) -> None:
    fast, slow = ("import json; print(json.dumps(dict(seconds=%s, peak_gib=%s)))" % pair for pair in ((1, 2), (3, 4)))  # noqa: UP031
    summary = compare([sys.executable, "-c", fast], command(slow), 2, print)
    assert (summary["ratio"], summary["ratios"]) == (3.0, [3.0, 3.0])
    assert capsys.readouterr().out.count("3.000 times as fast") == 3


@pytest.mark.parametrize("code", ["print(1)", "", "print(chr(123) + chr(125))", "import sys; sys.exit(3)"])
def test_output_without_seconds_is_refused(code: str) -> None:
    with pytest.raises(UserError, match=r"expected a last line of JSON with `seconds` \(exit code [03]"):
        compare([sys.executable, "-c", code], command(code), 1, print)


def test_steps_that_update_nothing_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    report = StepReport({}, 0.0, "the loss is nan")
    monkeypatch.setattr(benchmark.Trainer, "update", lambda *_: lambda: report)
    step, _ = benchmark.train(benchmark.SIZES["shapes"])
    step()
    with pytest.raises(UserError, match="left out: the loss is nan"):
        step()
    report.overflow = True  # the first steps of float16
    step()


@pytest.mark.parametrize("task", ["forward", "train", "attention", "evaluate"])
def test_the_tool(task: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark.py", task, "--size", "shapes", "--repeats", "2", "--json"])
    assert main() == 0
    values = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert values["seconds"] > 0 and values["floor_seconds"] > 0
    # all three are rounded to five digits after the point
    assert values["achieved"] * values["seconds"] == pytest.approx(values["floor_seconds"], abs=2e-5)
    assert values["kernels"] == "compiled"
