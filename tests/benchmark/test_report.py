"""What is made of timings."""

from __future__ import annotations

import sys

import pytest

from jseg.benchmark.report import as_text, compare, result, run_json
from jseg.benchmark.workloads import Timing, Workload, measure
from jseg.errors import UserError


def command(code: str) -> str:
    return f'{sys.executable} -c "{code}"'


def test_floor_and_share_reached() -> None:
    settings = {"task": "forward", "size": "voc", "batch": 1, "device": "cpu", "threads": 2}
    timing = Timing(9.0, (2.0, 4.0, 1.0), 2**31)
    values = result(settings, Workload(lambda: None, 1e11, 2**20), timing, rate=1e11)
    assert (values["seconds"], values["min"], values["max"], values["first"]) == (2.0, 1.0, 4.0, 9.0)
    assert (values["floor_seconds"], values["achieved"], values["peak_gib"]) == (1.0, 0.5, 2.0)
    assert "floor 1.0000 s, of which 50 % is reached" in as_text(values)


def test_repeats_are_timed_after_the_warm_up() -> None:
    calls = []
    timing = measure(lambda: calls.append(1), repeats=3, warm_up=2)
    assert (len(calls), len(timing.all)) == (5, 3)


def test_comparison_pair_by_pair(capsys: pytest.CaptureFixture[str]) -> None:
    fast, slow = ("import json; print(json.dumps(dict(seconds=%s, peak_gib=%s)))" % pair for pair in ((1, 2), (3, 4)))  # noqa: UP031
    summary = compare([sys.executable, "-c", fast], command(slow), 2, print)
    assert (summary["ratio"], summary["ratios"], summary["memory_ratio"]) == (3.0, [3.0, 3.0], 2.0)
    assert capsys.readouterr().out.count("3.000 times as fast") == 3


@pytest.mark.parametrize("code", ["print(1)", "", "print(chr(123) + chr(125))"])
def test_output_without_seconds_is_refused(code: str) -> None:
    with pytest.raises(UserError, match="expected a last line of JSON with `seconds`"):
        run_json(command(code))


def test_a_command_that_fails_is_named() -> None:
    with pytest.raises(UserError, match="ended with code 3"):
        run_json(command("import sys; sys.exit(3)"))
