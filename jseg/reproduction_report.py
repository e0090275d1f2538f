"""One HTML page of a suite's results, with everything inside: it needs no server and no network.

Table, curves of the training runs, IoU of each class, best and worst images, the command and the environment.
"""

from __future__ import annotations

from jseg.runtime.command_line import command_line

import base64
import html
import io
import json
import os
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from jseg.data.class_names import classes_of
from jseg.drawing_curves import EVENTS, draw
from jseg.engine.checkpoint import METRICS_NAME, VAL_FILES
from jseg.engine.log import LOG_NAME, read_log
from jseg.files import write_whole
from jseg.outputs import TEXT_MARK
from jseg.reproduction import NOTE_ON_OTHERS, RECORD_NAME, Row
from jseg.reproduction_tables import table_cells
from jseg.runtime.prepare import environment

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #191919; max-width: 1250px; margin: 2em auto; padding: 0 1em }
h2 { border-top: 1px solid #ccc; padding-top: 1em; margin-top: 2em }
table { border-collapse: collapse } td, th { padding: .2em .8em; text-align: left; border-bottom: 1px solid #ddd }
img { max-width: 100%; display: block; margin: .5em 0 }
pre { white-space: pre-wrap; background: #f4f4f4; padding: .6em }
.missed td:nth-last-child(2) { color: #be143c; font-weight: bold }
.bars { columns: 280px; column-gap: 2em } .bars div { display: flex; break-inside: avoid; font-size: 13px }
.bars span { width: 56%; overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
.bars i { flex: 1; font-style: normal; text-align: right }
.bars b { width: 30%; background: linear-gradient(#1450aa 0 0) 0 50% / var(--iou) 70% no-repeat #eee; margin: 2px 6px }
.bars .unseen span { color: #be143c } .bars .unseen b { background-image: linear-gradient(#be143c 0 0) }
"""


def element(name: str, *content: str, **attributes: str) -> str:
    """An HTML element; `content` is HTML, attributes are plain text (`class_` = class)."""
    found = "".join(f' {key.rstrip("_")}="{html.escape(value)}"' for key, value in attributes.items())
    return f"<{name}{found}>{''.join(content)}</{name}>"


def image(data: bytes, kind: str, alt: str) -> str:
    """An image that is part of the page."""
    return f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def results_table(results: Sequence[dict[str, Any]], links_from: Path, folder: Path) -> str:
    """The table; links to the records, whose paths are relative to `folder`, from a page in `links_from`."""
    head, *lines = table_cells(results)
    rows = [element("tr", *(element("th", html.escape(cell)) for cell in [*head, "records"]))]
    for result, cells in zip(results, lines, strict=True):
        links = [
            element("a", html.escape(name), href=quote(os.path.relpath(folder / path, links_from)))
            for name, path in result["records"].items()
        ]
        columns = (*map(html.escape, cells), ", ".join(links))
        kind = "missed" if cells[-1].startswith("missed") else "row"
        rows.append(element("tr", *(element("td", cell) for cell in columns), class_=kind))
    return element("table", *rows)


def curves(runs: Iterable[Path]) -> str:
    """The curves of training runs, those of one row."""
    logs = {run.name: [x for x in read_log(run / LOG_NAME) if x.get("event") in EVENTS] for run in runs}
    if not any(logs.values()):
        return element("p", "No curves: the weights were not trained here.")
    draw({name: lines for name, lines in logs.items() if lines}, file := io.BytesIO(), "png")
    return image(file.getvalue(), "png", "curves of training")


def class_bars(folders: Sequence[Path], unseen: Sequence[str]) -> str:
    """IoU of each class as a bar, highest first: the mean over the evaluations in `folders`."""
    tables, means = [json.loads((folder / METRICS_NAME).read_text("utf-8"))["IoU"] for folder in folders], {}
    for name in tables[0]:
        values = [table[name] for table in tables if table[name] is not None]
        means[name] = statistics.fmean(values) if values else None
    bars = []
    for name, value in sorted(means.items(), key=lambda item: 1 if item[1] is None else -item[1]):
        bar = element("b", style=f"--iou: {value or 0:.1f}%")
        figure = "-" if value is None else f"{value:.1f}"
        parts = element("span", html.escape(name), title=name), bar, element("i", figure)
        bars.append(element("div", *parts, class_="unseen" if name in unseen else "seen"))
    return element("div", *bars, class_="bars")


def result_section(row: Row, result: dict[str, Any], folder: Path, results_folder: Path) -> str:
    """What there is of a result beside its line in the table."""
    config, folders = row.read(), [results_folder / row.name / source for source in result["sources"]]
    classes, all_seen = classes_of(config.data), config.cross_dataset or config.data.setting == "supervised"
    unseen = [] if all_seen else [classes.names[index] for index in classes.unseen]
    parts = [element("h2", html.escape(result["title"]))]
    if not (config.test.training_free or row.weights_of or result["given"]):
        parts.append(curves(folder / row.name / source for source in result["sources"]))
    note = "; unseen classes in red" if unseen else ""
    note += f"; mean over {len(folders)} seeds" if len(folders) > 1 else ""
    parts += [element("h3", f"IoU of each class in percent{note}"), class_bars(folders, unseen)]
    if (sheet := folders[0] / VAL_FILES[-1]).is_file():
        Image.open(sheet).convert("RGB").save(file := io.BytesIO(), "JPEG", quality=88)
        what = f"Best and worst images{f' of {folders[0].name}' if len(folders) > 1 else ''}"
        parts += [element("h3", what), image(file.getvalue(), "jpeg", what)]
    for source, path in zip(result["sources"], folders, strict=True):
        text = html.escape((path / RECORD_NAME).read_text("utf-8"))
        parts.append(element("details", element("summary", f"record of {source}"), element("pre", text)))
    return element("section", *parts)


def write_report(
    path: Path, suite: str, rows: Sequence[Row], results: Sequence[dict[str, Any]], lacking: dict[str, list[str]],
    folder: Path, results_folder: Path,
) -> None:  # fmt: skip
    """Writes the page of what `reproduce` returned; `folder` holds the runs, `results_folder` the tables."""
    by_name, title = {row.name: row for row in rows}, f"Suite {suite}"
    note = "In percent: mean ± sample standard deviation of n seeds (expected number). "
    note += NOTE_ON_OTHERS if any(row.others for row in rows) else ""
    table = results_table(results, path.absolute().parent, results_folder.absolute())
    parts = [element("h1", html.escape(title)), table, element("p", html.escape(note))]
    absent = [element("li", html.escape(f"{name} lacks {item}")) for name, items in lacking.items() for item in items]
    parts.append(element("ul", *absent) if absent else "")
    ours = [result for result in results if result["sources"]]
    parts += [result_section(by_name[result["row"]], result, folder, results_folder) for result in ours]
    lines = [f"{name}: {value}" for name, value in environment("").items() if value]
    parts += [element("h2", "Command"), element("pre", html.escape(command_line()))]
    parts += [
        element("h2", "Environment of this page; that of each run is in its records"),
        element("pre", html.escape("\n".join(lines))),
    ]
    parts.append(element("p", time.strftime("%Y-%m-%d %H:%M:%S %z")))
    head = f'<meta charset="utf-8">{element("title", html.escape(title))}{element("style", STYLE)}'
    page = f'<!doctype html>\n{TEXT_MARK}<html lang="en">{element("head", head)}{element("body", *parts)}</html>\n'
    write_whole(path, page.encode())
