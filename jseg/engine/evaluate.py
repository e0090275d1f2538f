"""Evaluation of a model on a data set: predictions, metrics, tables and drawn images.

In the strict protocol (Xian et al., CVPR 2019) only pixels of unseen classes count, and get one of these.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path

import jittor as jt
import numpy as np
from tqdm import tqdm

from jseg import drawing
from jseg.config import Config
from jseg.data.class_names import IGNORED, ClassList, stored_labels
from jseg.data.dataset import Dataset, SegmentationDataset
from jseg.data.loader import EvaluationImage, evaluation_images
from jseg.drawing_extremes import Extremes
from jseg.engine.checkpoint import VAL_FILES
from jseg.engine.signals import Interrupted
from jseg.engine.sliding_window import predict_views
from jseg.errors import UserError
from jseg.files import write_json
from jseg.metrics import ConfusionMatrix, class_table, group_table, headline
from jseg.model.clip_rc import ClipRC
from jseg.model.image_encoder import keep_prompts
from jseg.ops.device import normalise
from jseg.outputs import check_outputs
from jseg.runtime.ranks import ALONE, Ranks

SHEET_NAME = "sheet.png"
SHEET_ROWS = 6
STRICT_PENALTY = 100.0  # subtracted from seen scores in the strict protocol: none of them can be the highest then


def class_groups(class_list: ClassList, config: Config) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids of the seen and of the unseen classes; all are seen when the training was on another data set."""
    unseen = () if config.cross_dataset else class_list.unseen
    return tuple(index for index in range(len(class_list.names)) if index not in unseen), unseen


def predictions(
    model: ClipRC, dataset: Dataset, text: np.ndarray, config: Config, ranks: Ranks = ALONE
) -> Iterator[tuple[int, EvaluationImage, np.ndarray]]:
    """(index, image, its (H, W) int32 class ids) of this rank's share of the data set, with a progress bar."""
    features, (seen, _) = jt.array(text), class_groups(dataset.class_list, config)
    gamma = STRICT_PENALTY if config.test.protocol == "strict" else config.gamma()
    indices = range(ranks.rank, len(dataset), ranks.world)
    bar = tqdm(
        total=len(indices), desc=dataset.class_list.title, unit="image", dynamic_ncols=True, disable=not ranks.first,
        mininterval=0.2 if sys.stderr.isatty() else 20,
    )  # fmt: skip
    source = closing(evaluation_images(dataset, config, ranks.rank, ranks.world))
    with bar, source as images, keep_prompts(model.backbone):
        for index, image in zip(indices, images, strict=True):
            views = [normalise(view, config.data) for view in image.images]
            yield index, image, predict_views(model, views, features, seen, gamma, config.test, image.size)
            bar.update()


def evaluate(
    model: ClipRC, dataset: Dataset, text: np.ndarray, config: Config, work_dir: Path | None = None,
    save_dir: Path | None = None, ranks: Ranks = ALONE, breaks: Callable[[], AbstractContextManager] = nullcontext,
    labels_needed: bool = True, overwrite: bool = False, run: dict | None = None,
) -> dict:  # fmt: skip
    """`ConfusionMatrix.summary` of a data set, printed and written to `work_dir`; images to `save_dir`.

    `work_dir` gets `VAL_FILES` (docs/training.md), metrics.json with `run` (see `metrics.about`). `text` is (C, D)
    float32. A mean over classes without labelled pixels is None. Without label maps there are no metrics, {}, or an
    error if `labels_needed`. Interrupted, raised inside `breaks()`, is raised on all ranks.
    """
    classes, strict = dataset.class_list, config.test.protocol == "strict"
    seen, unseen = class_groups(classes, config)
    matrix, unlabelled, interrupted = ConfusionMatrix(len(classes.names)), False, False
    drawings = Drawings(save_dir, dataset, config, overwrite) if save_dir is not None else None
    extremes = Extremes(dataset) if work_dir is not None else None
    try:
        with breaks():
            for index, image, labels in predictions(model, dataset, text, config, ranks):
                truth = image.labels
                if truth is not None:
                    alone = matrix.update(labels, np.where(np.isin(truth, unseen), truth, IGNORED) if strict else truth)
                    if extremes is not None:
                        extremes.add(index, image.name, labels, alone.labelled_iou())
                elif labels_needed:
                    raise UserError(f"{image.name} has no label map: set data.val.labels, or use --task test")
                unlabelled = unlabelled or truth is None
                if drawings is not None:
                    drawings.add(index, labels)
    except Interrupted:
        interrupted = True
    if ranks.any(interrupted):
        raise Interrupted
    matrix.counts = ranks.sum(matrix.counts)
    metrics = {}
    if not ranks.any(unlabelled):
        metrics = matrix.summary(seen, unseen, classes.names)
        for key, ids in (("mIoU(S)", seen), ("mIoU(U)", unseen)):
            if not matrix.label_area[list(ids)].any():  # pixels wrongly predicted as these classes would make it 0
                metrics[key] = metrics["hIoU"] = None
        print(class_table(matrix, classes.names, unseen), group_table(metrics), sep="\n")
        line, test = f"{classes.title}, {config.data.setting}, {len(dataset)} images", config.test
        line += ", strict protocol (unseen classes among themselves)" if strict else ""
        if test.scales != (1.0,) or test.flip:
            line += f", scales {', '.join(f'{scale:g}' for scale in test.scales)}{', mirrored too' * test.flip}"
        print(line, headline(metrics), sep="\n", flush=True)
        if extremes is not None and (files := extremes.files(ranks, unseen)):
            confusion = drawing.confusion_image(matrix.counts, classes.names, unseen)
            contents = (confusion, matrix.csv_table(classes.names).encode(), *files)
            summary, *paths = (work_dir / name for name in VAL_FILES)
            drawing.write_images(dict(zip(paths, contents, strict=True)))
            write_json(summary, metrics | (run or {}))
    if drawings is not None:
        drawings.finish(ranks)
    return metrics


class Drawings:
    """Label maps in the data set's own numbering, overlays, and a sheet of examples (see `check_outputs`)."""

    def __init__(self, save_dir: Path, dataset: Dataset, config: Config, overwrite: bool = False) -> None:
        self.save_dir, self.overwrite, self.dataset, classes = Path(save_dir), overwrite, dataset, dataset.class_list
        supervised = config.data.setting == "supervised"  # then no class was hidden in training
        self.classes = classes.names, classes.palette, () if supervised else class_groups(classes, config)[1]
        self.title = f"{classes.title}, {config.data.setting}"
        stored = stored_labels(np.arange(len(classes.names)), classes)
        self.stored_palette = np.zeros((int(stored.max()) + 1, 3), dtype=np.uint8)
        self.stored_palette[stored] = classes.palette
        self.in_sheet = {*np.linspace(0, len(dataset) - 1, min(len(dataset), SHEET_ROWS)).round().astype(int).tolist()}
        self.examples: dict[int, drawing.Example] = {}  # by index in the data set
        outputs, inputs = [self.save_dir / SHEET_NAME], []
        if isinstance(dataset, SegmentationDataset):
            outputs += [path for name in dataset.names for path in drawing.output_paths(self.save_dir, name)]
            inputs = [path(i) for path in (dataset.image_path, dataset.labels_path) for i in range(len(dataset))]
        check_outputs(outputs, inputs, self.save_dir, overwrite)

    def add(self, index: int, labels: np.ndarray) -> None:
        """Writes label map and overlay of an image, labels (H, W) class ids."""
        image, truth, name = self.dataset.read(index)
        stored = stored_labels(labels, self.dataset.class_list)
        drawn = drawing.overlay_with_legend(image, labels, *self.classes)
        drawing.write_segmentation(self.save_dir, name, stored, self.stored_palette, drawn, self.overwrite)
        if index in self.in_sheet:
            if truth is not None and (truth != IGNORED).any():
                score = ConfusionMatrix(len(self.classes[0])).update(labels, truth).labelled_iou()
                name += f": mIoU of its classes {score:.1f}"
            self.examples[index] = drawing.thumbnail(name, image, labels, truth)

    def finish(self, ranks: Ranks) -> None:
        """Writes the sheet of all ranks' examples and prints where everything is."""
        examples = dict(sorted(item for share in ranks.all_gather(self.examples) for item in share.items()))
        if ranks.first:
            path = self.save_dir / SHEET_NAME
            check_outputs([path], folder=self.save_dir, overwrite=self.overwrite)
            drawing.write_images({path: drawing.sheet([*examples.values()], *self.classes, self.title)})
            print(f"label maps and overlays of {len(self.dataset)} images: {self.save_dir}\nsheet: {path}", flush=True)
