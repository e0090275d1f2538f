"""Evaluation of a model on a data set: predictions, metrics, tables, pictures.

Zhang et al., "Exploring Regional Clues in CLIP for Zero-Shot Semantic Segmentation", CVPR 2024, section 4.1: every
pixel is given one of all classes (generalised). The strict protocol is the older one of zero-shot learning (Xian et
al., "Semantic Projection Network", CVPR 2019): only pixels of unseen classes count, and they are named among these.

    python tools/run_net.py --config-file configs/shapes_demo.py --task val --weights …
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import jittor as jt
import numpy as np
from tqdm import tqdm

from jseg.config import Config
from jseg.data.class_names import IGNORED, ClassList
from jseg.data.dataset import Dataset
from jseg.data.label_maps import stored_labels
from jseg.data.loader import evaluation_images
from jseg.drawing import (
    Classes,
    Example,
    overlay_with_legend,
    sheet,
    thumbnail,
    write_label_map,
    write_picture,
)
from jseg.engine.checkpoint import METRICS_NAME
from jseg.engine.ranks import ALONE, Ranks
from jseg.engine.signals import Interrupted
from jseg.engine.sliding_window import predict_views
from jseg.errors import CannotWrite, UserError
from jseg.files import write_json
from jseg.metrics import ConfusionMatrix, class_table, headline
from jseg.model.clip_rc import ClipRC
from jseg.model.image_encoder import prompts_kept

SHEET_NAME = "sheet.png"
SHEET_ROWS = 6
STRICT_PENALTY = 100.0  # subtracted from seen scores in the strict protocol: none of them can be the highest then
SLOW_LOG = 20.0  # seconds between progress lines where there is no terminal


@dataclass(frozen=True)
class Prediction:
    """What the model says of one picture."""

    index: int  # in the data set
    name: str
    labels: np.ndarray  # (H, W) int32 class ids
    truth: np.ndarray | None  # (H, W) uint8 class ids, 255 = ignored


def unseen_classes(class_list: ClassList, config: Config) -> tuple[int, ...]:
    """Ids that count as unseen: none when the training was on another data set."""
    return () if config.cross_dataset else class_list.unseen


def seen_classes(class_list: ClassList, config: Config) -> tuple[int, ...]:
    """Ids that count as seen: calibration is subtracted from their scores."""
    unseen = unseen_classes(class_list, config)
    return tuple(index for index in range(len(class_list.names)) if index not in unseen)


def counted_labels(truth: np.ndarray, class_list: ClassList, config: Config) -> np.ndarray:
    """The labels that count: all in the generalised protocol, those of unseen classes in the strict one."""
    if config.test.protocol == "generalised":
        return truth
    return np.where(np.isin(truth, unseen_classes(class_list, config)), truth, np.uint8(IGNORED))


def protocol_title(config: Config) -> str:
    """How the evaluation differs from the usual one, for the line before the numbers; "" where it does not."""
    test = config.test
    notes = ["strict protocol (unseen classes among themselves)"] if test.protocol == "strict" else []
    if test.scales != (1.0,) or test.flip:
        scales = ", ".join(f"{scale:g}" for scale in test.scales)
        notes.append(f"scales {scales}{', mirrored too' if test.flip else ''}")
    return "".join(f", {note}" for note in notes)


def predictions(
    model: ClipRC, dataset: Dataset, text: np.ndarray, class_list: ClassList, config: Config, ranks: Ranks = ALONE
) -> Iterator[Prediction]:
    """Predictions for this rank's share of the pictures in the order of the data set, with a progress bar.

    Args:
        model: in evaluation mode.
        text: (C, D) float32 embeddings of all classes of the list.

    Raises:
        UserError: a picture or label map that cannot be used.
    """
    features = jt.array(text)
    seen = seen_classes(class_list, config)
    gamma = STRICT_PENALTY if config.test.protocol == "strict" else config.gamma()
    interval = 0.2 if sys.stderr.isatty() else SLOW_LOG
    own = range(ranks.rank, len(dataset), ranks.world)
    bar = tqdm(
        total=len(own), desc=class_list.title, unit="picture", mininterval=interval, dynamic_ncols=True,
        disable=not ranks.first,
    )  # fmt: skip
    source = closing(evaluation_images(dataset, config, ranks.rank, ranks.world))
    with bar, source as pictures, prompts_kept(model.backbone):
        for index, picture in zip(own, pictures, strict=True):
            labels = predict_views(model, picture.images, features, seen, gamma, config.test, picture.size)
            yield Prediction(index, picture.name, labels, picture.labels)
            bar.update()


def reported(matrix: ConfusionMatrix, class_list: ClassList, config: Config) -> dict:
    """The summary of `matrix`; a mean over classes that the ground truth does not hold at all is None (undefined).

    Without this rule pixels wrongly predicted as unseen would make mIoU(U) 0 where there was nothing to find.
    """
    seen, unseen = seen_classes(class_list, config), unseen_classes(class_list, config)
    metrics = matrix.summary(seen, unseen, class_list.names)
    for key, ids in (("mIoU(S)", seen), ("mIoU(U)", unseen)):
        if not matrix.label_area[list(ids)].any():
            metrics[key] = metrics["hIoU"] = None
    return metrics


def evaluate(
    model: ClipRC,
    dataset: Dataset,
    text: np.ndarray,
    class_list: ClassList,
    config: Config,
    work_dir: Path | None,
    save_dir: Path | None = None,
    ranks: Ranks = ALONE,
    breaks: Callable[[], AbstractContextManager] = nullcontext,
    drawing_may_fail: bool = False,
) -> dict:
    """Metrics over a data set; prints a table and the summary line, writes `<work_dir>/metrics.json`.

    Args:
        model: in evaluation mode.
        text: (C, D) float32 embeddings of all classes of the list.
        work_dir: where metrics.json goes; None = nowhere.
        save_dir: where to draw the pictures as well; None = not at all.
        ranks: the processes that share the pictures.
        breaks: context in which Interrupted may be raised.
        drawing_may_fail: whether pictures that cannot be written are a warning, as in training, not an error.

    Returns:
        The content of metrics.json: see `ConfusionMatrix.summary`.

    Raises:
        UserError: pictures without labels or that cannot be used, a folder that cannot be written.
        Interrupted: on all ranks, when it was raised on any.
    """
    matrix = ConfusionMatrix(len(class_list.names))
    painter = None
    if save_dir is not None:
        painter = Painter(save_dir, dataset, class_list, config, ranks, drawing_may_fail)
    broken_off = False
    try:
        with breaks():
            for prediction in predictions(model, dataset, text, class_list, config, ranks):
                if prediction.truth is None:
                    raise UserError(f"{prediction.name} has no label map: set data.val.labels, or use --task test")
                matrix.update(prediction.labels, counted_labels(prediction.truth, class_list, config))
                if painter is not None:
                    painter.add(prediction)
    except Interrupted:
        broken_off = True
    if ranks.any(broken_off):
        raise Interrupted
    matrix.counts = ranks.sum(matrix.counts)
    metrics = reported(matrix, class_list, config)
    print(class_table(matrix, class_list.names, unseen_classes(class_list, config)))
    if painter is not None:
        painter.finish()
    if work_dir is not None and ranks.first:
        write_json(Path(work_dir) / METRICS_NAME, metrics)
    print(f"{class_list.title}, {config.data.setting}, {len(dataset)} pictures{protocol_title(config)}")
    print(headline(metrics), flush=True)
    return metrics


def draw(
    model: ClipRC,
    dataset: Dataset,
    text: np.ndarray,
    class_list: ClassList,
    config: Config,
    save_dir: Path,
    ranks: Ranks = ALONE,
) -> Path:
    """Writes label map and overlay of every picture and a sheet of examples; prints where.

    Pictures that have label maps are measured too: the summary line is printed before the path of the sheet.

    Args:
        model: in evaluation mode.
        text: (C, D) float32 embeddings of all classes of the list.
        ranks: the processes that share the pictures.

    Returns:
        Path of the sheet.

    Raises:
        UserError: a picture that cannot be used, a folder that cannot be written.
    """
    matrix = ConfusionMatrix(len(class_list.names))
    painter = Painter(save_dir, dataset, class_list, config, ranks)
    measured = 0
    for prediction in predictions(model, dataset, text, class_list, config, ranks):
        painter.add(prediction)
        if prediction.truth is not None:
            matrix.update(prediction.labels, counted_labels(prediction.truth, class_list, config))
            measured += 1
    matrix.counts, measured = ranks.sum(matrix.counts), int(ranks.sum(np.int64(measured)))
    if measured == len(dataset):
        print(headline(reported(matrix, class_list, config)))
    return painter.finish()


class Painter:
    """Writes `<name>.png` (label map in the data set's own numbering), `<name>_overlay.png` and a sheet of examples.

    Args:
        may_fail: whether a picture that cannot be written is a warning, after which no more are drawn.
    """

    def __init__(
        self,
        save_dir: Path,
        dataset: Dataset,
        class_list: ClassList,
        config: Config,
        ranks: Ranks = ALONE,
        may_fail: bool = False,
    ) -> None:
        self.save_dir = Path(save_dir)
        self.may_fail, self.failed = may_fail, False
        self.ranks = ranks
        self.dataset = dataset
        self.class_list = class_list
        trained = config.data.setting == "supervised"  # then no class was hidden in training
        unseen = () if trained else unseen_classes(class_list, config)
        self.classes = Classes(class_list.names, class_list.palette, unseen)
        self.title = f"{class_list.title}, {config.data.setting}"
        stored = stored_labels(np.arange(len(class_list.names)), class_list)
        self.stored_palette = np.zeros((int(stored.max()) + 1, 3), dtype=np.uint8)
        self.stored_palette[stored] = class_list.palette
        rows = np.linspace(0, len(dataset) - 1, min(len(dataset), SHEET_ROWS))
        self.in_sheet = set(np.round(rows).astype(int).tolist())
        self.examples: dict[int, Example] = {}  # by index in the data set
        self.count = 0

    def add(self, prediction: Prediction) -> None:
        """Writes the two pictures of a prediction."""
        if not self.failed:
            self._tolerantly(lambda: self._draw(prediction))

    def _draw(self, prediction: Prediction) -> None:
        image, _, name = self.dataset.read(prediction.index)
        stored = stored_labels(prediction.labels, self.class_list)
        write_label_map(self.save_dir / f"{name}.png", stored, self.stored_palette)
        write_picture(
            self.save_dir / f"{name}_overlay.png", overlay_with_legend(image, prediction.labels, self.classes)
        )
        if prediction.index in self.in_sheet:
            self.examples[prediction.index] = thumbnail(Example(name, image, prediction.labels, prediction.truth))
        self.count += 1

    def _tolerantly(self, draw: Callable[[], None]) -> None:
        """Draws; where that may fail, says so once instead."""
        try:
            draw()
        except CannotWrite as error:
            if not self.may_fail:
                raise
            self.failed = True
            print(f"warning: {error}; no more pictures are drawn in this evaluation", flush=True)

    def finish(self) -> Path:
        """Writes the sheet, prints where everything is, and returns the sheet's path."""
        path = self.save_dir / SHEET_NAME
        found = sorted(item for share in self.ranks.all_gather(self.examples) for item in share.items())
        count = int(self.ranks.sum(np.int64(self.count)))
        failed = self.ranks.any(self.failed)
        if failed and not self.failed:
            print("warning: another rank could not write its pictures; the rest are drawn", flush=True)
        if self.ranks.first and not failed:
            examples = [example for _, example in found]
            self._tolerantly(lambda: write_picture(path, sheet(examples, self.classes, self.title)))
        if not failed and not self.failed:
            print(f"label maps and overlays of {count} pictures: {self.save_dir}")
            print(f"sheet: {path}", flush=True)
        return path
