"""Reproduces tables: the rows of a suite, what each needs, training, evaluation, our numbers and published ones.

A row names a config, which has the recipe and the published numbers (`expected`). The weights of a row are
`<row>/seed_<n>/weights.safetensors` below one folder from our own runs, or one file `<row>.pth`, `.pkl` or
`.safetensors` from elsewhere, such as the released ones. Training goes on from the newest checkpoint of its folder; an
evaluation on record for the same weights and configuration is not repeated.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jseg.config import Config, read_config, suggestion, to_dict
from jseg.data.class_names import classes_of
from jseg.engine.checkpoint import METRICS_NAME, WEIGHTS_NAME, checkpoint_path, checkpoints_in, newest_whole, read_whole
from jseg.errors import UserError
from jseg.files import write_json, write_whole
from jseg.metrics import HEADLINE
from jseg.weights.reader import sha256_of_file

REPOSITORY = Path(__file__).resolve().parents[1]
RECORD_NAME = "record.json"
EXPECTED_MISSED, INTERRUPTED = 1, 130  # exit codes of run_net
GIVEN, PLAIN_CLIP = "given", "clip"  # sources of weights that no run of ours made
FETCH = "python tools/fetch_pretrained.py ViT-B-16"
SUFFIXES = (".safetensors", ".pth", ".pkl", ".pt")
Metrics = dict[str, float | None]  # pAcc, mIoU(S), mIoU(U), hIoU in percent; None = undefined


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    name: str
    config: str  # file in configs/
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)  # what --train runs
    start: str = ""  # row whose half-way weights the training starts from
    weights_of: str = ""  # row whose weights are evaluated; this row has no training of its own
    title: str = ""  # of the row in tables; "" = data set and setting

    @property
    def trains(self) -> bool:
        """Whether the row has a training of its own."""
        return not self.weights_of and not self.read().test.training_free

    @property
    def config_path(self) -> Path:
        """The config file."""
        return REPOSITORY / "configs" / self.config

    def read(self, data_root: Path | None = None) -> Config:
        """The configuration; `data_root` is the folder that holds the data sets' folders."""
        return read_config(self.config_path, self.all_overrides(data_root))

    def all_overrides(self, data_root: Path | None = None) -> list[str]:
        """The row's overrides and, for data sets on disk, where the data set lies."""
        root = read_config(self.config_path, self.overrides).data.root
        if data_root is None or not root:
            return [*self.overrides]
        return [*self.overrides, f"data.root={data_root.resolve() / Path(root).name}"]


@dataclass(frozen=True)
class Suite:
    """Rows that belong together, in an order in which each finds what it starts from."""

    name: str
    rows: tuple[Row, ...]
    published: bool = True  # False: a benchmark of our own, whose runs are short and made without being asked for

    def chosen(self, names: Sequence[str]) -> tuple[Row, ...]:
        """The rows of these names, in the order of the suite; all of them when there are no names.

        Raises:
            UserError: an unknown name.
        """
        known = [row.name for row in self.rows]
        for name in set(names).difference(known):
            raise UserError(f"--rows: {name!r} is no row of suite {self.name}{suggestion(name, known)}")
        return tuple(row for row in self.rows if not names or row.name in names)

    def row(self, name: str) -> Row:
        """The row of this name."""
        return next(row for row in self.rows if row.name == name)


def _three_settings(data_set: str, split: str = "") -> tuple[Row, ...]:
    name, overrides = (f"{data_set}_{split}", (f"data.split={split}",)) if split else (data_set, ())
    return (
        Row(f"{name}_inductive", f"{data_set}_inductive.py", overrides),
        Row(f"{name}_transductive", f"{data_set}_transductive.py", overrides, start=f"{name}_inductive"),
        Row(f"{name}_supervised", f"{data_set}_supervised.py", overrides),
    )


PAPER = Suite(
    "paper",
    (
        *_three_settings("voc12"),
        *_three_settings("coco_stuff"),
        *_three_settings("context", "A"),
        *_three_settings("context", "B")[:2],  # fully supervised, a split hides nothing
        Row("cross_coco_to_context", "cross_coco_to_context.py", weights_of="coco_stuff_inductive"),
        Row("cross_coco_to_voc12", "cross_coco_to_voc12.py", weights_of="coco_stuff_inductive"),
    ),
)


SHAPES_TITLES = {
    "patch_features": "CLIP's patch features, no learning",
    "value_path": "CLIP's value path, no learning",
    "class_token": "CLIP's value path read by the class token, no learning",
    "inductive": "CLIP-RC, inductive",
    "transductive": "CLIP-RC, transductive",
    "supervised": "CLIP-RC, fully supervised",
    "short": "inductive, short: what the rows below change one thing of",
    "no_regions": "short, no regions",
    "no_recovery": "short, no recovery",
    "neither": "short, neither (ZegCLIP-like)",
    "1_region": "short, 1 region instead of 16",
    "4_regions": "short, 4 regions instead of 16",
    "recovery_3": "short, recovery depth 3 instead of 1",
}
SHAPES_ROWS = tuple(
    Row(f"shapes_{name}", f"shapes_{name}.py", seeds=(0, 1, 2), title=title,
        start="shapes_inductive" if name == "transductive" else "")
    for name, title in SHAPES_TITLES.items()
)  # fmt: skip
SHAPES = Suite("shapes", SHAPES_ROWS, published=False)
SUITES = {suite.name: suite for suite in (PAPER, SHAPES)}


@dataclass(frozen=True)
class Places:
    """Where data sets and weights are."""

    data_root: Path | None  # folder with VOC2012, coco_stuff164k, …; None = where the configs say
    checkpoints: Path

    def run_folder(self, row: Row, seed: int) -> Path:
        """Work folder of a training run."""
        return self.checkpoints / row.name / f"seed_{seed}"


@dataclass(frozen=True)
class Missing:
    """Something that is not there, and the command that gets it."""

    what: str
    command: str


def weights_found(row: Row, places: Places) -> dict[str, Path]:
    """All weight files of a row by source, runs of ours first, in the order of their seeds."""
    config = row.read(places.data_root)
    if config.test.training_free:
        init = Path(config.model.init)
        return {PLAIN_CLIP: init} if init.is_file() else {}
    name = row.weights_of or row.name
    paths = places.checkpoints.glob(f"{name}/seed_*/{WEIGHTS_NAME}")
    by_seed = sorted(paths, key=lambda path: (len(path.parent.name), path.parent.name))  # seed_9 before seed_10
    found = {path.parent.name: path for path in by_seed}
    given = [path for suffix in SUFFIXES if (path := places.checkpoints / f"{name}{suffix}").is_file()]
    return {**found, GIVEN: given[0]} if given else found


def missing_data(config: Config, splits: tuple[str, ...]) -> list[Missing]:
    """Folders and lists of a data set that are not there."""
    if not config.data.root:
        return []
    root = Path(config.data.root)
    sections = [getattr(config.data, split) for split in splits]
    parts = [part for files in sections for part in (files.images, files.labels, files.names) if part]
    missing = [part for part in dict.fromkeys(parts) if not (root / part).exists()]
    if not missing:
        return []
    command = f"python tools/prepare_{config.data.dataset}.py {shlex.quote(str(root))} (downloads: docs/reproduce.md)"
    return [Missing(f"data: {', '.join(missing)} in {root}", command)]


def start_weights(row: Row, seed: int, suite: Suite, places: Places) -> Path | None:
    """Weights that a training run starts from; None when it starts from CLIP."""
    if not row.start:
        return None
    folder, iteration = places.run_folder(suite.row(row.start), seed), row.read().train.expected_iteration
    return checkpoint_path(folder, iteration) if iteration else folder / WEIGHTS_NAME


def missing_for_training(row: Row, seed: int, suite: Suite, places: Places) -> list[Missing]:
    """What a training run of this row lacks."""
    config = row.read(places.data_root)
    missing = missing_data(config, ("train", "val"))
    start = start_weights(row, seed, suite, places)
    if start is not None:
        command = f"the same command with --rows {row.start},{row.name} --train"
        return missing + ([] if start.is_file() else [Missing(f"checkpoint to start from: {start}", command)])
    init = config.model.init
    if init and init != "random" and not Path(init).is_file():
        missing.append(Missing(f"CLIP weights: {init}", FETCH))
    return missing


def missing_for_evaluation(row: Row, suite: Suite, places: Places) -> list[Missing]:
    """What the evaluation of this row lacks."""
    config, found = row.read(places.data_root), weights_found(row, places)
    missing = missing_data(config, ("val",))
    if not found and config.test.training_free:
        missing.append(Missing(f"CLIP weights: {config.model.init}", FETCH))
    elif not found:
        trained = suite.row(row.weights_of or row.name)
        where = f"weights: {places.run_folder(trained, 0)}/{WEIGHTS_NAME}, or a released file as "
        command = f"the same command with --rows {f'{trained.start},{trained.name}'.lstrip(',')} --train"
        missing.append(Missing(f"{where}{places.checkpoints / trained.name}.pth", command))
    return missing


def run_net(arguments: list[str]) -> int:
    """Exit code of run_net, whose output is shown; raises KeyboardInterrupt if it was interrupted."""
    print(f"$ python tools/run_net.py {' '.join(arguments)}", flush=True)
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}  # the jseg of this repository, installed or not
    process = subprocess.Popen([sys.executable, str(REPOSITORY / "tools" / "run_net.py"), *arguments], env=environment)
    try:
        code = process.wait()
    except KeyboardInterrupt:  # it got the signal too: it saves before it ends
        process.wait()
        raise
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    return code


def _recipe(values: dict[str, Any]) -> dict[str, Any]:
    """The settings that change the result of training, by dotted key."""
    result = {f"{section}.{key}": value for section in ("data", "model", "loss", "optimizer") if section in values
            for key, value in values[section].items()}  # fmt: skip
    result |= {f"train.{key}": values["train"][key] for key in ("iterations", "batch_size") if "train" in values}
    places = {"data.root", "data.workers", "data.train", "data.val", "model.init"}
    return {key: json.loads(json.dumps(value)) for key, value in result.items() if key not in places}


def check_recipe(row: Row, seed: int, places: Places) -> None:
    """Checks that what lies in the folder of a row's seed, weights or checkpoints, is trained as the row says.

    Raises:
        UserError: it is not, and would be taken for the row's.
    """
    folder = places.run_folder(row, seed)
    if not (folder / WEIGHTS_NAME).is_file() and not checkpoints_in(folder):
        return
    file = read_whole(folder / WEIGHTS_NAME) if (folder / WEIGHTS_NAME).is_file() else newest_whole(folder)[0]
    then, now = _recipe(file.meta.get("config", {})), _recipe(to_dict(row.read(places.data_root)))
    other = [key for key, value in then.items() if now.get(key, value) != value]
    if other:
        first = f"{other[0]}={then[other[0]]}, not {now[other[0]]}"
        remedy = "pass another --checkpoints, or move that folder away"
        raise UserError(f"{file.path} was trained by another recipe than {row.name} is now ({first}): {remedy}")


def train(row: Row, seed: int, suite: Suite, places: Places, device: str) -> bool:
    """Trains one seed of a row, or goes on with it; False when the run failed (its error is shown)."""
    folder = places.run_folder(row, seed)
    arguments = ["--config-file", str(row.config_path), "--task", "train", "--work-dir", str(folder)]
    start = start_weights(row, seed, suite, places)
    if checkpoints_in(folder):
        arguments.append("--resume")
    elif start is not None:
        arguments += ["--weights", str(start)]
    overrides = [*row.all_overrides(places.data_root), f"train.seed={seed}"]
    return run_net([*arguments, "--device", device, *overrides]) == 0 and (folder / WEIGHTS_NAME).is_file()


def _evaluation_settings(config: Config) -> dict[str, Any]:
    """The settings that change the result of an evaluation."""
    values = to_dict(config)
    for section, key in (("data", "root"), ("data", "workers"), ("model", "init"), ("test", "window_batch")):
        del values[section][key]
    return {key: values[key] for key in ("data", "model", "text", "test", "cross_dataset")}


def measure(row: Row, source: str, weights: Path, places: Places, results: Path, device: str) -> Metrics | None:
    """Evaluates one weight file of a row, or takes the metrics on record; None when the evaluation failed."""
    folder = results / row.name / source
    config = _evaluation_settings(row.read(places.data_root))
    identity = {"weights_sha256": sha256_of_file(weights), "config": config}
    try:
        record = json.loads((folder / RECORD_NAME).read_text())
        if record["identity"] == identity:
            print(f"{row.name}, {source}: on record in {folder}")
            return record["metrics"]
    except (OSError, ValueError, KeyError, TypeError):  # never measured, or the record was cut off: measure again
        pass
    arguments = ["--config-file", str(row.config_path), "--task", "val"]
    arguments += [] if source == PLAIN_CLIP else ["--weights", str(weights)]
    arguments += ["--work-dir", str(folder), "--device", device, *row.all_overrides(places.data_root)]
    if run_net(arguments) not in (0, EXPECTED_MISSED):
        return None
    metrics = json.loads((folder / METRICS_NAME).read_text())
    metrics.pop("IoU")
    write_json(folder / RECORD_NAME, {"identity": identity, "metrics": metrics, "weights": str(weights)})
    return metrics


@dataclass(frozen=True)
class Comparison:
    """One metric of one row."""

    metric: str
    published: float | None  # percent; None = nothing published
    tolerance: float | None
    values: list[float | None]  # one for each seed; None = undefined
    mean: float | None
    std: float | None  # sample standard deviation (n - 1); None for a single seed
    passed: bool | None  # None = nothing to compare with


@dataclass(frozen=True)
class RowResult:
    """What was measured of a row from one kind of source: runs of ours, or a given file."""

    row: str
    title: str
    given: bool  # a weight file that no run of ours made
    sources: list[str]
    comparisons: list[Comparison]


def compare(metric: str, values: Sequence[float | None], expected: dict) -> Comparison:
    """Compares values of a metric (percent) with what a config expects; an undefined one misses any number."""
    published, tolerance = expected.get(metric, (None, None))
    defined = [value for value in values if value is not None]
    mean = statistics.fmean(defined) if values and len(defined) == len(values) else None
    std = statistics.stdev(defined) if mean is not None and len(defined) > 1 else None
    passed = None if published is None else mean is not None and abs(mean - published) <= tolerance
    return Comparison(metric, published, tolerance, list(values), mean, std, passed)


def row_results(row: Row, measured: dict[str, Metrics]) -> list[RowResult]:
    """Results of a row from metrics by source: runs of ours together, a given file on its own."""
    config = row.read()
    kind = "trained on another data set" if config.cross_dataset else config.data.setting
    title = row.title or f"{classes_of(config.data).title}, {kind}"
    results = []
    for given, suffix in ((False, ""), (True, " (given file)")):
        sources = [source for source in measured if (source == GIVEN) == given]
        values = {metric: [measured[source].get(metric) for source in sources] for metric in HEADLINE}
        comparisons = [compare(metric, values[metric], config.expected) for metric in HEADLINE]
        if sources:
            results.append(RowResult(row.name, title + suffix, given, sources, comparisons))
    return results


def _cell(item: Comparison) -> str:
    mean = "-" if item.mean is None else f"{item.mean:.1f}"
    spread = f" ± {item.std:.1f}" if item.std is not None else ""
    return mean + spread + (f" ({item.published:.1f})" if item.published is not None else "")


def markdown(results: Sequence[RowResult]) -> str:
    """A table with a line for each row: mean ± spread of each metric and, in parentheses, the expected number."""
    lines = [f"| row | n | {' | '.join(HEADLINE)} | as expected |", f"|---|---|{'---|' * len(HEADLINE)}---|"]
    for result in results:
        missed = ", ".join(item.metric for item in result.comparisons if item.passed is False)
        judged = any(item.passed is not None for item in result.comparisons)
        verdict = f"**missed**: {missed}" if missed else "yes" if judged else ""
        cells = " | ".join(_cell(item) for item in result.comparisons)
        lines.append(f"| {result.title} | {len(result.sources)} | {cells} | {verdict} |")
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


def write(results: Sequence[RowResult], missing: dict[str, list[Missing]], suite: Suite, folder: Path) -> list[Path]:
    """Writes <suite>.md and <suite>.json; returns their paths."""
    listed = [f"- {line.strip()}" for line in missing_lines(missing)]
    write_whole(folder / f"{suite.name}.md", "\n".join([markdown(results), "", *listed, ""]).encode())
    lacking = {row: [asdict(item) for item in items] for row, items in missing.items()}
    content = {"suite": suite.name, "rows": [asdict(result) for result in results], "missing": lacking}
    write_json(folder / f"{suite.name}.json", content)
    return [folder / f"{suite.name}.{end}" for end in ("md", "json")]
