"""Published numbers beside ours: mean, spread over seeds, difference, tolerance; as Markdown, JSON and bars."""

from __future__ import annotations

import importlib.util
import io
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jseg.data.held_out import classes_of
from jseg.engine.metrics import HEADLINE
from jseg.reproduction.needs import GIVEN, Missing
from jseg.reproduction.runs import Measurement
from jseg.reproduction.suites import Row
from jseg.whole_file import write_json, write_whole

HEADER = "| row | metric | published | ours | difference | tolerance | n | |\n|---|---|---|---|---|---|---|---|"


@dataclass(frozen=True)
class Comparison:
    """One metric of one row."""

    metric: str
    published: float | None  # percent; None = nothing published
    tolerance: float | None
    values: list[float | None]  # one for each seed; None = undefined
    mean: float | None
    std: float | None  # sample standard deviation (n - 1); None for a single seed
    difference: float | None  # mean - published
    passed: bool | None  # None = nothing to compare with


@dataclass(frozen=True)
class RowResult:
    """What was measured of a row from one kind of source: runs of ours, or a given file."""

    row: str
    title: str  # data set with split, setting
    given: bool  # a weight file that no run of ours made
    sources: list[str]
    comparisons: list[Comparison]

    @property
    def label(self) -> str:
        """Name of the row in tables."""
        return f"{self.row} (given file)" if self.given else self.row


def compare(metric: str, values: Sequence[float | None], expected: dict) -> Comparison:
    """Compares values of a metric (percent) with what a config expects; an undefined one misses any number."""
    published, tolerance = expected.get(metric, (None, None))
    defined = [value for value in values if value is not None]
    mean = statistics.fmean(defined) if values and len(defined) == len(values) else None
    std = statistics.stdev(defined) if mean is not None and len(defined) > 1 else None
    difference = None if mean is None or published is None else mean - published
    passed = None if published is None else difference is not None and abs(difference) <= tolerance
    return Comparison(metric, published, tolerance, list(values), mean, std, difference, passed)


def row_results(row: Row, measurements: Sequence[Measurement]) -> list[RowResult]:
    """Results of a row: runs of ours together, a given file on its own."""
    config = row.read()
    kind = "trained on another data set" if config.cross_dataset else config.data.setting
    title = f"{classes_of(config.data).title}, {kind}"
    results = []
    for given in (False, True):
        part = [item for item in measurements if item.row == row.name and (item.source == GIVEN) == given]
        if part:
            comparisons = [compare(key, [item.metrics.get(key) for item in part], config.expected) for key in HEADLINE]
            results.append(RowResult(row.name, title, given, [item.source for item in part], comparisons))
    return results


def _number(value: float | None, signed: bool = False) -> str:
    return "-" if value is None else f"{value:{'+' if signed else ''}.1f}"


def markdown(results: Sequence[RowResult]) -> str:
    """A table with a line for each row and metric."""
    lines = [HEADER]
    for result in results:
        for item in result.comparisons:
            ours = _number(item.mean) + (f" ± {item.std:.1f}" if item.std is not None else "")
            verdict = {None: "", True: "ok", False: "**missed**"}[item.passed]
            cells = [
                f"{result.label}: {result.title}", item.metric, _number(item.published), ours,
                _number(item.difference, signed=True), _number(item.tolerance), str(len(item.values)), verdict,
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def missing_lines(missing: dict[str, list[Missing]]) -> list[str]:
    """What is missing, each thing once, with the rows that need it and the command that gets it."""
    rows: dict[Missing, list[str]] = {}
    for row, items in missing.items():
        for item in items:
            rows.setdefault(item, []).append(row)
    lines = []
    for item, names in rows.items():
        lines += [f"missing {item.what} (for {', '.join(names)})", f"    {item.command}"]
    return lines


def draw_bars(results: Sequence[RowResult], path: Path) -> None:
    """Bars of all metrics, ours beside the published ones; needs matplotlib."""
    from matplotlib.figure import Figure

    bars = [(f"{result.label} {item.metric}", item) for result in results for item in result.comparisons]
    bars = [(name, item) for name, item in bars if item.mean is not None]
    figure = Figure(figsize=(8, 1 + 0.35 * len(bars)), layout="constrained")
    axes = figure.subplots()
    places = range(len(bars))
    axes.barh(
        [place - 0.2 for place in places], [item.mean for _, item in bars], 0.4,
        xerr=[item.std or 0 for _, item in bars], label="ours", color="tab:blue",
    )  # fmt: skip
    known = [(place, item.published) for place, (_, item) in zip(places, bars, strict=True) if item.published]
    axes.barh(
        [place + 0.2 for place, _ in known], [value for _, value in known], 0.4, label="published", color="lightgrey"
    )
    axes.set_yticks(list(places), [name for name, _ in bars])
    axes.invert_yaxis()
    axes.set_xlabel("percent")
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    write_whole(path, content.getvalue())


def write(results: Sequence[RowResult], missing: dict[str, list[Missing]], suite: str, folder: Path) -> list[Path]:
    """Writes <suite>.md, <suite>.json and, where matplotlib is installed, <suite>.png; returns their paths."""
    paths = [folder / f"{suite}.md", folder / f"{suite}.json"]
    lines = missing_lines(missing)
    listed = [f"- {line.strip()}" for line in lines]
    write_whole(paths[0], "\n".join([markdown(results), "", *listed, ""]).encode())
    content = {
        "suite": suite,
        "rows": [asdict(result) for result in results],
        "missing": {row: [asdict(item) for item in items] for row, items in missing.items()},
    }
    write_json(paths[1], content)
    if results and importlib.util.find_spec("matplotlib"):
        paths.append(folder / f"{suite}.png")
        draw_bars(results, paths[-1])
    return paths
