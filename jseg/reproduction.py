"""Reproduces tables: the rows of a suite, training, evaluation, our numbers beside the expected ones.

A row names a config. Its weights are `<row>/seed_<n>/weights.safetensors` in one folder from our own runs, or one file
`<row>.pth`, `.pkl` or `.safetensors` from elsewhere. What is trained or measured already is not done again.
"""

from __future__ import annotations

from jseg.runtime.command_line import command_line, in_words, run_tool

import json
import os
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jseg.config import METRICS, Config, config_changes, from_dict, read_config, to_dict
from jseg.data.class_names import classes_of
from jseg.data.dataset import parts_of
from jseg.data.published import PUBLISHED, free_bytes
from jseg.engine.checkpoint import METRICS_NAME, WEIGHTS_NAME, checkpoint_path, checkpoints_in
from jseg.engine.log import LOG_NAME, read_log
from jseg.errors import UserError
from jseg.files import digest_of, write_json, write_whole
from jseg.outputs import TEXT_MARK
from jseg.released_configs import REPOSITORY
from jseg.reproduction_tables import csv_table, latex, markdown
from jseg.runtime.prepare import environment
from jseg.weights.reader import read_weight_file

GIVEN, PLAIN_CLIP = "given", "clip"  # sources of weights that no run of ours made
RECORD_NAME = "record.json"  # of a training run, and of its evaluation
# keys that do not shape weights, or say where files lie
MAY_DIFFER = ("test.", "expected", "train.seed", "train.eval_every", "data.root", "data.workers", "model.init",
              "text.vocab", "text.embed")  # fmt: skip
STEP_TFLOP = {"voc12": 9.0, "context": 11.0, "coco_stuff": 14.0}  # of 16 crops (docs/reproduce.md, section 4)
RUN_BYTES = 4_300_000_000  # that a training run on one of these leaves (docs/reproduce.md, section 1)
ESTIMATE = 10.0  # TFLOP a second, until steps are measured
FIRST_STEPS = 50  # after which they are
Metrics = dict[str, float | None]  # pAcc, mIoU(S), mIoU(U), hIoU, mIoU in percent; None = undefined


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    name: str
    config: str  # file in configs/
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)  # what is trained
    start: str = ""  # row whose half-way weights its training starts from
    weights_of: str = ""  # row whose weights are evaluated; this row has no training of its own
    title: str = ""  # of the row in tables; "" = data set and setting
    others: tuple[tuple[str, float], ...] = ()  # published mIoU of other methods, which stands below ours

    def read(self) -> Config:
        """The configuration."""
        return read_config(REPOSITORY / "configs" / self.config, self.overrides)

    def arguments(self, task: str, folder: Path, device: str, more: list[str]) -> list[str]:
        """Those of run_net; settings of the config come last."""
        config = ["--config-file", str(REPOSITORY / "configs" / self.config)]
        return [*config, "--task", task, "--work-dir", str(folder), "--device", device, *more, *self.overrides]


PAPER = (
    *(
        Row(f"{name}_{setting}", f"{data_set}_{setting}.py", overrides,
            start=f"{name}_inductive" if setting == "transductive" else "")
        for name, data_set, overrides in (
            ("voc12", "voc12", ()), ("coco_stuff", "coco_stuff", ()),
            ("context_A", "context", ("data.split=A",)), ("context_B", "context", ("data.split=B",)),
        )
        for setting in ("inductive", "transductive", "supervised")
        if (name, setting) != ("context_B", "supervised")  # fully supervised, a split hides nothing
    ),
    Row("cross_coco_to_context", "cross_coco_to_context.py", weights_of="coco_stuff_inductive"),
    Row("cross_coco_to_voc12", "cross_coco_to_voc12.py", weights_of="coco_stuff_inductive"),
)  # fmt: skip
SHAPES_TITLES = {
    "patch_features": "CLIP's patch features, no learning", "value_path": "CLIP's value path, no learning",
    "class_token": "CLIP's value path read by the class token, no learning",
    "sclip": "SCLIP, no learning", "clearclip": "ClearCLIP, no learning", "naclip": "NACLIP, no learning",
    "inductive": "CLIP-RC, inductive", "transductive": "CLIP-RC, transductive",
    "supervised": "CLIP-RC, fully supervised",
    "short": "inductive, short: what the rows below change one thing of",
    "no_regions": "short, no regions", "no_recovery": "short, no recovery", "neither": "short, neither (ZegCLIP-like)",
    "1_region": "short, 1 region instead of 16", "4_regions": "short, 4 regions instead of 16",
    "recovery_3": "short, recovery depth 3 instead of 1",
}  # fmt: skip
SHAPES = tuple(
    Row(f"shapes_{name}", f"shapes_{name}.py", seeds=(0, 1, 2), title=title,
        start="shapes_inductive" if name == "transductive" else "")
    for name, title in SHAPES_TITLES.items()
) + (
    Row("shapes_plus", "shapes_plus.py", weights_of="shapes_inductive", title="inductive, several views"),
    Row("shapes_transductive_plus", "shapes_transductive_plus.py", weights_of="shapes_transductive",
        title="transductive, several views"),
    Row("shapes_open", "shapes_open.py", weights_of="shapes_inductive", title="inductive, on shapes_open"),
    Row("shapes_open_class_token", "shapes_open.py", ("test.training_free=class_token",),
        title="CLIP's value path read by the class token, on shapes_open"),
)  # fmt: skip
NOTE_ON_OTHERS = (
    "Lines marked published: mIoU over all classes from the papers of CAT-Seg, SED (CVPR 2024), MAFT+ and OTSeg (ECCV "
    "2024), not measured here; backbone, templates and image size differ, too (docs/reproduce.md, section 6)."
)
_OPEN = {  # data set -> config, others' mIoU; all trained on COCO-Stuff
    "A-150": ("cross_coco_to_ade20k.py", ("CAT-Seg-B", 31.8), ("SED-B", 31.8), ("MAFT+-B", 34.6), ("OTSeg", 21.9)),
    "PC-59": ("cross_coco_to_context.py", ("CAT-Seg-B", 57.5), ("SED-B", 57.7), ("MAFT+-B", 57.5)),
    "PAS-20": ("cross_coco_to_voc12.py", ("CAT-Seg-B", 94.6), ("SED-B", 94.4), ("MAFT+-B", 95.4)),
}  # fmt: skip
OPEN_VOCABULARY = (
    Row("coco_stuff_supervised", "coco_stuff_supervised.py"),
    *(Row(name, config, weights_of="coco_stuff_supervised", title=f"{name}: CLIP-RC", others=tuple(others))
      for name, (config, *others) in _OPEN.items()),
)  # fmt: skip
# each row finds what it starts from in the rows before it
SUITES = {"paper": PAPER, "shapes": SHAPES, "open-vocabulary": OPEN_VOCABULARY}


def weights_found(row: Row, folder: Path) -> dict[str, Path]:
    """All weight files of a row by source, runs of ours first by seed; UserError if of another config."""
    config, name = row.read(), row.weights_of or row.name
    if config.test.training_free:
        return {PLAIN_CLIP: Path(config.model.init)}
    found = sorted(folder.glob(f"{name}/seed_*/{WEIGHTS_NAME}"), key=lambda path: int(path.parent.name[5:]))
    for path in () if row.weights_of else found:
        trained = from_dict(read_weight_file(path).meta.get("config"), path)
        changes = [text for text in config_changes(trained, config) if not text.startswith(MAY_DIFFER)]
        if changes:
            raise UserError(f"{path} was trained with another config ({changes[0]}): choose another --checkpoints")
    given = [path for path in folder.glob(f"{name}.*") if path.suffix in (".safetensors", ".pth", ".pkl", ".pt")]
    return {path.parent.name: path for path in found} | ({GIVEN: given[0]} if given else {})


def start_weights(row: Row, seed: int, folder: Path) -> Path | None:
    """Weights that a training run starts from; None when it starts from CLIP."""
    run, iteration = folder / row.start / f"seed_{seed}", row.read().train.expected_iteration
    return None if not row.start else checkpoint_path(run, iteration) if iteration else run / WEIGHTS_NAME


def missing(row: Row, folder: Path, seed: int | None = None) -> list[str]:
    """What the evaluation of a row lacks, or with `seed` its training, each with the command that gets it."""
    config, lacking, name = row.read(), [], row.weights_of or row.name
    if config.data.root:
        root, sections = Path(config.data.root), [config.data.val, *([] if seed is None else [config.data.train])]
        splits = [part for files in sections for part in parts_of(files)]
        parts = dict.fromkeys(name for part in splits for name in (part.images, part.labels, part.names))
        if absent := [part for part in parts if part and not (root / part).exists()]:
            command = [f"python tools/{tool}.py {shlex.join(more)}" for tool, more in fetching([row])[1:]]
            lacking.append(f"data: {', '.join(absent)} in {root}: {command[0] if command else 'correct data.root'}")
    again = f"the same command with --rows {','.join(filter(None, (row.start or row.weights_of, row.name)))} --train"
    start = None if seed is None else start_weights(row, seed, folder)
    if start is not None:
        lacking += [] if start.is_file() else [f"checkpoint to start from: {start}: {again}"]
    elif seed is not None or config.test.training_free:
        if config.model.init not in ("", "random") and not Path(config.model.init).is_file():
            lacking.append(f"CLIP weights: {config.model.init}: python tools/fetch_pretrained.py ViT-B-16")
    elif not weights_found(row, folder):
        lacking.append(f"weights: {folder / name}/seed_0/{WEIGHTS_NAME}, or a released file {name}.pth: {again}")
    return lacking


def fetching(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """Tools and their arguments that bring CLIP, its vocabulary and data sets, for rows of published ones."""
    names: dict[Path, dict[str, None]] = {}
    for data in (row.read().data for row in rows):
        if data.dataset in PUBLISHED and Path(data.root).name == PUBLISHED[data.dataset].folder:
            names.setdefault(Path(data.root).parent, {})[data.dataset] = None
    commands = [("fetch_dataset", [*found, "--root", str(root)]) for root, found in names.items()]
    return [("fetch_pretrained", ["ViT-B-16", "vocabulary"]), *commands] if commands else []


def last_iteration(run: Path) -> int:
    """How far a training run has come, as its log says."""
    return max((line["iteration"] for line in read_log(run / LOG_NAME)), default=0)


class Plan:
    """The training runs of a suite, the configuration of each by its folder, and how long they take."""

    def __init__(self, runs: dict[Path, Config]) -> None:
        self.runs = {run: config for run, config in runs.items() if not (run / WEIGHTS_NAME).is_file()}
        self.measured = False
        if self.runs and all(config.data.dataset in STEP_TFLOP for config in self.runs.values()):
            disk, free = len(self.runs) * RUN_BYTES / 1e9, free_bytes(next(iter(self.runs))) / 1e9
            print(f"{len(self.runs)} training runs: {disk:.1f} GB of disk, {free:.1f} GB are free")
            self.show(ESTIMATE, f"on a GPU that sustains {ESTIMATE:.0f} TFLOP/s in float32 (estimate)")

    def show(self, rate: float, basis: str) -> None:
        """Prints the hours of each run and of all at `rate` TFLOP a second."""
        total = 0.0
        for run, config in self.runs.items():
            steps = max(config.train.iterations - last_iteration(run), 0)
            hours = steps * STEP_TFLOP.get(config.data.dataset, 1.0) / rate / 3600
            total += hours
            print(f"{run.parent.name}, {run.name}: {steps:,} steps, {hours:.1f} h")
        print(f"training: {total:.1f} h {basis}", flush=True)

    def watch(self, run: Path, start: int) -> None:
        """Called while a run goes on: shows the plan again, once, after `FIRST_STEPS` steps from `start`."""
        for line in [] if self.measured else read_log(run / LOG_NAME):
            if line["event"] == "train" and line["iteration"] >= start + FIRST_STEPS:
                self.measured = True
                rate = STEP_TFLOP.get(self.runs[run].data.dataset, 1.0) / line["step"]
                return self.show(rate, f"at {line['step']:.3f} s a step, measured in {run.parent.name}")


def train(row: Row, seed: int, folder: Path, device: str, plan: Plan) -> list[str]:
    """Trains one seed of a row, or goes on with it, unless its weights are there; returns what was in the way."""
    run, start = folder / row.name / f"seed_{seed}", start_weights(row, seed, folder)
    if (run / WEIGHTS_NAME).is_file():
        return []
    if lacking := missing(row, folder, seed):
        return lacking
    weights = ["--resume"] if checkpoints_in(run) else [] if start is None else ["--weights", str(start)]
    arguments = row.arguments("train", run, device, weights)
    watch = partial(plan.watch, run, last_iteration(run))
    code = run_tool("run_net", [*arguments, f"train.seed={seed}"], watch)
    if code == 0 and (run / WEIGHTS_NAME).is_file():
        return []
    return [f"training of {row.name}, seed {seed}: it failed or was stopped, see above: the same again"]


def measure(row: Row, source: str, weights: Path, results: Path, device: str) -> Metrics | None:
    """Evaluates one weight file of a row, or takes the metrics on record; None when the evaluation failed."""
    folder, values = results / row.name / source, to_dict(row.read())
    for section, key in (("data", "root"), ("data", "workers"), ("model", "init"), ("test", "window_batch")):
        del values[section][key]  # does not change the numbers
    config = {key: values[key] for key in ("data", "model", "text", "test", "cross_dataset")}
    identity = {"weights_sha256": digest_of(weights), "config": config}
    try:
        record = json.loads((folder / RECORD_NAME).read_text())
        if record["identity"] == identity and "mIoU" in record["metrics"]:
            print(f"{row.name}, {source}: on record in {folder}")
            return record["metrics"]
    except (OSError, ValueError):  # never measured, or the record was cut off: measure again
        pass
    (folder / METRICS_NAME).unlink(missing_ok=True)
    # the exit code says whether it meets the config's expectations, too
    given = [] if source == PLAIN_CLIP else ["--weights", str(weights)]
    run_tool("run_net", row.arguments("val", folder, device, given))
    if not (folder / METRICS_NAME).is_file():
        return None
    found = json.loads((folder / METRICS_NAME).read_text())
    metrics = {name: found[name] for name in (*METRICS, "mIoU")}
    record = {"identity": identity, "metrics": metrics, "weights": str(weights), "command": command_line()}
    write_json(folder / RECORD_NAME, record | {"environment": environment(found["run"]["device"])})
    return metrics


def compare(metric: str, values: Sequence[float | None], expected: dict) -> dict[str, Any]:
    """Mean and sample standard deviation of a metric in percent beside what a config expects.

    An undefined value misses any number; `passed` is None when there is nothing to compare with.
    """
    published, tolerance = expected.get(metric, (None, None))
    mean = statistics.fmean(values) if values and None not in values else None
    std = statistics.stdev(values) if mean is not None and len(values) > 1 else None
    passed = None if published is None else mean is not None and abs(mean - published) <= tolerance
    result = {"metric": metric, "published": published, "tolerance": tolerance, "values": list(values)}
    return {**result, "mean": mean, "std": std, "passed": passed}


def row_results(row: Row, measured: dict[str, Metrics]) -> list[dict[str, Any]]:
    """Results of a row from metrics by source: runs of ours together, a given file on its own, then other methods'."""
    config, results, columns = row.read(), [], ("pAcc", "mIoU") if row.others else METRICS
    kind = "trained on another data set" if config.cross_dataset else config.data.setting
    title = row.title or f"{classes_of(config.data).title}, {kind}"
    for given, suffix in ((False, ""), (True, " (given file)")):
        if sources := [source for source in measured if (source == GIVEN) == given]:
            values = {name: [measured[source].get(name) for source in sources] for name in columns}
            found = [compare(name, values[name], config.expected) for name in columns]
            result = {"row": row.name, "title": title + suffix, "given": given}
            results.append({**result, "sources": sources, "comparisons": found})
    for method, value in row.others:
        found = [compare(name, [value] if name == "mIoU" else [], {}) for name in columns]
        result = {"row": row.name, "title": f"{title.partition(':')[0]}: {method}", "given": False}
        results.append({**result, "sources": [], "comparisons": found})
    return results


def records(row: Row, result: dict[str, Any], folder: Path, results: Path) -> dict[str, str]:
    """Paths of the records of a result, relative to `results`, by what they tell of."""
    found = {}
    for source in result["sources"]:
        paths = {source: results / row.name / source, f"training of {source}": folder / row.name / source}
        found |= {name: path / RECORD_NAME for name, path in paths.items() if (path / RECORD_NAME).is_file()}
    return {name: os.path.relpath(path, results) for name, path in found.items()}


def reproduce(
    suite: str, rows: list[Row], folder: Path, results: Path, device: str, train_too: bool, seeds: Sequence[int] = (),
    fetch: bool = False,
) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:  # fmt: skip
    """Trains (with `train_too`) one seed of all rows, then the next; measures all and writes the tables after each.

    A plan comes first, then, with `fetch`, the downloads (UserError if they fail). Returns results, what rows lack.
    """
    trained = [row for row in rows if train_too and not row.weights_of and not row.read().test.training_free]
    chosen = {row.name: seeds or row.seeds if row in trained else () for row in rows}
    plan = Plan({folder / row.name / f"seed_{seed}": row.read() for row in rows for seed in chosen[row.name]})
    for tool, arguments in fetching(rows):
        if not fetch:
            print(in_words(f"--fetch runs: python tools/{tool}.py {shlex.join(arguments)}"), flush=True)
        runs = fetch or tool == "fetch_dataset"
        if runs and run_tool(tool, arguments if fetch else [*arguments, "--dry-run"]) and fetch:
            raise UserError(f"{tool}.py failed, see above: the same again, or without --fetch with what is there")
    untrained: dict[str, list[str]] = {row.name: [] for row in rows}
    for seed in sorted({seed for of_row in chosen.values() for seed in of_row}) or [0]:
        for row in rows:
            weights_found(row, folder)  # refuses those of another config
            if seed in chosen[row.name]:
                untrained[row.name] += train(row, seed, folder, device, plan)
        table, lacking = [], {}
        for row in rows:
            absent, measured = missing(row, folder), {}
            for source, weights in ({} if absent else weights_found(row, folder)).items():
                if metrics := measure(row, source, weights, results, device):
                    measured[source] = metrics
                else:
                    absent.append(f"metrics of {weights}: the evaluation failed, see above: the same again")
            found = row_results(row, measured)
            table += [result | {"records": records(row, result, folder, results)} for result in found]
            if absent := untrained[row.name] + (absent if measured or not untrained[row.name] else []):
                lacking[row.name] = absent
        lines = [NOTE_ON_OTHERS, ""] if any(row.others for row in rows) else []
        lines += [f"- {name} lacks {item}" for name, items in lacking.items() for item in items]
        text = in_words("\n".join([markdown(table), "", *lines, ""]))
        print(text, flush=True)
        for kind, content in (("md", TEXT_MARK + text), ("csv", csv_table(table)), ("tex", latex(table))):
            write_whole(results / f"{suite}.{kind}", content.encode())
        write_json(results / f"{suite}.json", {"suite": suite, "rows": table, "missing": lacking})
        print(f"written: {results / suite}.md, .csv, .tex and .json", flush=True)
    return table, lacking
