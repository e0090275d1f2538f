"""Results of a suite as tables to hand on: Markdown, LaTeX, CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

from jseg.outputs import ROWS_MARK, TEXT_MARK


def metrics_of(results: Sequence[dict[str, Any]]) -> list[str]:
    """The metrics of all results, in order; a result may have only some of them."""
    return list(dict.fromkeys(item["metric"] for result in results for item in result["comparisons"]))


def table_cells(results: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The head and a line for each result: mean ± spread of each metric and, in parentheses, the expected number."""
    metrics = metrics_of(results)
    lines = [["row", "n", *metrics, "as expected"]]
    for result in results:
        cells, verdicts = dict.fromkeys(metrics, ""), {item["metric"]: item["passed"] for item in result["comparisons"]}
        for item in result["comparisons"]:
            parts = (("{:.1f}", item["mean"]), (" ± {:.1f}", item["std"]), (" ({:.1f})", item["published"]))
            cell = "".join(text.format(value) for text, value in parts if value is not None)
            cells[item["metric"]] = cell if item["mean"] is not None else f"-{cell}"
        missed = ", ".join(metric for metric, value in verdicts.items() if value is False)
        verdict = f"missed: {missed}" if missed else "yes" if True in verdicts.values() else ""
        lines.append([result["title"], str(len(result["sources"]) or "published"), *cells.values(), verdict])
    return lines


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """The table in Markdown; the last column links the records, relative to the folder of the tables."""
    head, *lines = table_cells(results)
    shown = [f"| {' | '.join([*head, 'records'])} |", f"|{'---|' * (len(head) + 1)}"]
    for result, (*cells, verdict) in zip(results, lines, strict=True):
        links = ", ".join(f"[{name}](<{path}>)" for name, path in result.get("records", {}).items())
        verdict = re.sub("^missed", "**missed**", verdict)
        shown.append(f"| {' | '.join([*cells, verdict, links])} |")
    return "\n".join(shown)


def latex(results: Sequence[dict[str, Any]]) -> str:
    """The table as a tabular without packages."""
    head, *lines = (
        [re.sub(r"[&%$#_{}]", r"\\\g<0>", cell).replace("±", r"$\pm$") for cell in line]
        for line in table_cells(results)
    )
    rows = [" & ".join(line) + r" \\" for line in (head, *lines)]
    body = "\n".join([rows[0], r"\hline", *rows[1:]])
    return f"% {TEXT_MARK}\\begin{{tabular}}{{l{'r' * (len(head) - 2)}l}}\n{body}\n\\end{{tabular}}\n"


def csv_table(results: Sequence[dict[str, Any]]) -> str:
    """Unrounded numbers: of each metric mean, sample standard deviation, expected number and its tolerance."""
    metrics, parts = metrics_of(results), ("mean", "std", "published", "tolerance")
    names = [f"{metric}{'' if part == 'mean' else f' {part}'}" for metric in metrics for part in parts]
    csv.writer(file := io.StringIO(), lineterminator="\n").writerow([ROWS_MARK, "title", "n", *names])
    for result in results:
        found = {item["metric"]: item for item in result["comparisons"]}
        values = [found.get(metric, {}).get(part) for metric in metrics for part in parts]
        line = [result["row"], result["title"], len(result["sources"]) or "published", *values]
        csv.writer(file, lineterminator="\n").writerow(line)
    return file.getvalue()
