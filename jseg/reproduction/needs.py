"""What the rows of a suite need on disk: data, CLIP's weights, checkpoints; and the command that gets what is missing.

A row's checkpoints lie below one folder: `<row>/seed_<n>/weights.safetensors` from our own runs, or one file
`<row>.pth`, `.pkl` or `.safetensors` from elsewhere, such as the released ones.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from jseg.clip.tokenizer import find_vocabulary
from jseg.config import Config
from jseg.engine.checkpoint import WEIGHTS_NAME, checkpoint_path
from jseg.errors import UserError
from jseg.reproduction.suites import Row, Suite
from jseg.weights.reader import read_weight_file

SUFFIXES = (".safetensors", ".pth", ".pkl", ".pt")
FETCH = "python tools/fetch_pretrained.py"
GIVEN = "given"  # source of a weight file that no run of ours made
PLAIN_CLIP = "clip"  # source of a row that evaluates CLIP itself, without any learning
PREPARE = {
    "voc12": "python tools/prepare_voc12.py {root} --sbd /path/to/benchmark_RELEASE",
    "coco_stuff": "python tools/prepare_coco_stuff.py {root}",
    "context": "python tools/prepare_context.py {root} --mat /path/to/trainval",
}


@dataclass(frozen=True)
class Places:
    """Where things lie."""

    data_root: Path | None  # folder with VOC2012, coco_stuff164k, …; None = where the configs say
    checkpoints: Path

    def options(self) -> str:
        """The same places as options of the command line."""
        root = f"--data-root {shlex.quote(str(self.data_root))} " if self.data_root is not None else ""
        return f"{root}--checkpoints {shlex.quote(str(self.checkpoints))}"


@dataclass(frozen=True)
class Missing:
    """Something that is not there."""

    what: str
    command: str  # that gets it


@dataclass(frozen=True)
class FoundWeights:
    """A weight file of a row."""

    source: str  # seed_<n> for a run of ours, else "given", or "clip" for CLIP without any learning
    path: Path


def run_folder(row: Row, seed: int, places: Places) -> Path:
    """Work folder of a training run."""
    return places.checkpoints / row.name / f"seed_{seed}"


def weights_found(row: Row, places: Places) -> list[FoundWeights]:
    """All weights of a row, runs of ours first, in the order of their seeds."""
    config = row.read(places.data_root)
    if config.test.training_free:
        init = Path(config.model.init)
        return [FoundWeights(PLAIN_CLIP, init)] if init.is_file() else []
    name = row.weights_of or row.name
    runs = []
    for path in places.checkpoints.glob(f"{name}/seed_*/{WEIGHTS_NAME}"):
        seed = path.parent.name.removeprefix("seed_")
        if seed.isdecimal():
            runs.append((int(seed), FoundWeights(path.parent.name, path)))
    given = [places.checkpoints / f"{name}{suffix}" for suffix in SUFFIXES]
    return [found for _, found in sorted(runs, key=lambda item: item[0])] + [
        FoundWeights(GIVEN, path) for path in given if path.is_file()
    ]


def missing_data(config: Config, splits: tuple[str, ...]) -> list[Missing]:
    """Folders and lists of a data set that are not there."""
    if config.data.dataset not in PREPARE:
        return []
    root = Path(config.data.root)
    sections = [getattr(config.data, split) for split in splits]
    parts = [part for files in sections for part in (files.images, files.labels, files.names) if part]
    missing = [part for part in dict.fromkeys(parts) if not (root / part).exists()]
    if not missing:
        return []
    command = PREPARE[config.data.dataset].format(root=shlex.quote(str(root)))
    return [Missing(f"data: {', '.join(missing)} in {root}", f"{command} (downloads: docs/reproduce.md)")]


def missing_vocabulary(config: Config) -> list[Missing]:
    """CLIP's vocabulary, where class names have to be embedded and the CLIP weights do not bring it along."""
    init = Path(config.model.init)
    if config.text.embeddings or config.text.vocabulary == "generated":
        return []
    if init.suffix == ".safetensors" and init.is_file() and read_weight_file(init).meta.get("vocabulary"):
        return []
    try:
        find_vocabulary(config.text.vocabulary)
    except UserError as error:
        return [Missing(f"vocabulary: {error}", f"{FETCH} vocabulary")]
    return []


def start_weights(row: Row, seed: int, suite: Suite, places: Places) -> Path | None:
    """The weights that a training run starts from; None when it starts from CLIP."""
    if not row.start:
        return None
    folder = run_folder(suite.row(row.start), seed, places)
    iteration = row.read().train.expected_iteration
    return checkpoint_path(folder, iteration) if iteration else folder / WEIGHTS_NAME


def missing_for_training(row: Row, seed: int, suite: Suite, places: Places) -> list[Missing]:
    """What a training run of this row lacks."""
    config = row.read(places.data_root)
    missing = missing_data(config, ("train", "val"))
    start = start_weights(row, seed, suite, places)
    if start is not None:
        if not start.is_file():
            rows = f"{row.start},{row.name}"
            command = f"python tools/reproduce.py --suite {suite.name} --rows {rows} {places.options()} --train"
            missing.append(Missing(f"checkpoint to start from: {start}", command))
        return missing
    init = config.model.init
    if init and init != "random" and not Path(init).is_file():
        missing.append(Missing(f"CLIP weights: {init}", f"{FETCH} ViT-B-16"))
    return missing + missing_vocabulary(config)


def missing_for_evaluation(row: Row, suite: Suite, places: Places) -> list[Missing]:
    """What the evaluation of this row lacks."""
    config, found = row.read(places.data_root), weights_found(row, places)
    missing = missing_data(config, ("val",))
    if not found and config.test.training_free:
        missing.append(Missing(f"CLIP weights: {config.model.init}", f"{FETCH} ViT-B-16"))
    elif not found:
        name = row.weights_of or row.name
        rows = f"{suite.row(name).start},{name}".lstrip(",")
        command = f"python tools/reproduce.py --suite {suite.name} --rows {rows} {places.options()} --train"
        where = f"{places.checkpoints / name}/seed_0/{WEIGHTS_NAME}"
        missing.append(Missing(f"weights: {where}, or a released file as {places.checkpoints / name}.pth", command))
    if row.weights_of or any(item.source == GIVEN for item in found):
        missing += missing_vocabulary(config)
    return missing
