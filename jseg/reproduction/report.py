"""Published numbers beside ours: mean, spread over seeds, difference, tolerance; as Markdown, JSON and bars."""

from __future__ import annotations

import importlib.util
import io
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from jseg.data.held_out import classes_of
from jseg.files import write_json, write_whole
from jseg.metrics import HEADLINE
from jseg.reproduction.needs import GIVEN, Missing
from jseg.reproduction.runs import Measurement
from jseg.reproduction.suites import Row, Suite

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
    title = row.title or f"{classes_of(config.data).title}, {kind}"
    results = []
    for given in (False, True):
        part = [item for item in measurements if item.row == row.name and (item.source == GIVEN) == given]
        if part:
            comparisons = [compare(key, [item.metrics.get(key) for item in part], config.expected) for key in HEADLINE]
            results.append(RowResult(row.name, title, given, [item.source for item in part], comparisons))
    return results


def _number(value: float | None, signed: bool = False) -> str:
    return "-" if value is None else f"{value:{'+' if signed else ''}.1f}"


def _spread(item: Comparison) -> str:
    return _number(item.mean) + (f" ± {item.std:.1f}" if item.std is not None else "")


def markdown(results: Sequence[RowResult], published: bool = True) -> str:
    """A table: of published rows a line for each row and metric, of a benchmark of our own a line for each row."""
    if not published:
        return _markdown_of_rows(results)
    lines = [HEADER]
    for result in results:
        for item in result.comparisons:
            verdict = {None: "", True: "ok", False: "**missed**"}[item.passed]
            cells = [
                f"{result.label}: {result.title}", item.metric, _number(item.published), _spread(item),
                _number(item.difference, signed=True), _number(item.tolerance), str(len(item.values)), verdict,
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _markdown_of_rows(results: Sequence[RowResult]) -> str:
    lines = [f"| row | n | {' | '.join(HEADLINE)} | as expected |", f"|---|---|{'---|' * len(HEADLINE)}---|"]
    for result in results:
        missed = [item for item in result.comparisons if item.passed is False]
        told = ", ".join(f"{item.metric} {item.published:.1f} within {item.tolerance:.1f}" for item in missed)
        judged = any(item.passed is not None for item in result.comparisons)
        verdict = f"**missed**: {told}" if missed else "yes" if judged else ""
        title = f"{result.title} (given file)" if result.given else result.title
        cells = [title, str(len(result.sources)), *(_spread(item) for item in result.comparisons), verdict]
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
    bars = [(f"{result.label} {item.metric}", item) for result in results for item in result.comparisons]
    bars = [(name, item) for name, item in bars if item.mean is not None]
    places = np.arange(len(bars))
    ours = Bars("ours", places - 0.2, [item.mean for _, item in bars], [item.std or 0 for _, item in bars])
    known = [(place, item.published) for place, (_, item) in zip(places, bars, strict=True) if item.published]
    theirs = Bars("published", [place + 0.2 for place, _ in known], [value for _, value in known])
    _draw([ours, theirs], [name for name, _ in bars], 0.4, path)


def draw_row_bars(results: Sequence[RowResult], path: Path) -> None:
    """For each row a bar of each metric but pAcc, with its spread over seeds; needs matplotlib."""
    metrics, groups = HEADLINE[1:], []
    thickness = 0.8 / len(metrics)
    for index, metric in enumerate(metrics):
        items = [(place, item) for place, result in enumerate(results) for item in result.comparisons
                 if item.metric == metric and item.mean is not None]  # fmt: skip
        places = [place + (index - (len(metrics) - 1) / 2) * thickness for place, _ in items]
        groups.append(Bars(metric, places, [item.mean for _, item in items], [item.std or 0 for _, item in items]))
    _draw(groups, [result.title for result in results], thickness, path)


@dataclass(frozen=True)
class Bars:
    """Bars of one colour."""

    label: str
    places: Sequence[float]
    values: Sequence[float]
    spread: Sequence[float] | None = None


def _draw(groups: Sequence[Bars], names: Sequence[str], thickness: float, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.35 * len(names) * max(1, 0.4 / thickness)), layout="constrained")
    axes = figure.subplots()
    for bars in groups:
        axes.barh(bars.places, bars.values, thickness, xerr=bars.spread, label=bars.label)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("percent")
    axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    write_whole(path, content.getvalue())


def write(results: Sequence[RowResult], missing: dict[str, list[Missing]], suite: Suite, folder: Path) -> list[Path]:
    """Writes <suite>.md, <suite>.json and, where matplotlib is installed, <suite>.png; returns their paths."""
    paths = [folder / f"{suite.name}.md", folder / f"{suite.name}.json"]
    lines = missing_lines(missing)
    listed = [f"- {line.strip()}" for line in lines]
    write_whole(paths[0], "\n".join([markdown(results, suite.published), "", *listed, ""]).encode())
    content = {
        "suite": suite.name,
        "rows": [asdict(result) for result in results],
        "missing": {row: [asdict(item) for item in items] for row, items in missing.items()},
    }
    write_json(paths[1], content)
    if results and importlib.util.find_spec("matplotlib"):
        paths.append(folder / f"{suite.name}.png")
        (draw_bars if suite.published else draw_row_bars)(results, paths[-1])
    return paths
