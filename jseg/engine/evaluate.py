"""Evaluation of a model on a data set: predictions, metrics, tables and drawn images.

Zhang et al., "Exploring Regional Clues in CLIP for Zero-Shot Semantic Segmentation", CVPR 2024, section 4.1: every
pixel gets one of all classes (generalised protocol). The strict protocol is the older one of zero-shot learning (Xian
et al., "Semantic Projection Network", CVPR 2019): only pixels of unseen classes count, and they get one of these.

    python tools/run_net.py --config-file configs/shapes_demo.py --task val --weights …
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path

import jittor as jt
import numpy as np
from tqdm import tqdm

from jseg.config import Config
from jseg.data.class_names import IGNORED, ClassList
from jseg.data.dataset import Dataset, SegmentationDataset
from jseg.data.label_maps import stored_labels
from jseg.data.loader import EvaluationImage, evaluation_images
from jseg.drawing import (
    Classes,
    Example,
    check_outputs,
    output_paths,
    overlay_with_legend,
    sheet,
    thumbnail,
    write_image,
    write_label_map,
)
from jseg.engine.checkpoint import METRICS_NAME
from jseg.engine.ranks import ALONE, Ranks
from jseg.engine.signals import Interrupted
from jseg.engine.sliding_window import predict_views
from jseg.errors import CannotWrite, UserError
from jseg.files import write_json
from jseg.metrics import ConfusionMatrix, class_table, headline
from jseg.model.clip_rc import ClipRC
from jseg.model.image_encoder import keep_prompts

SHEET_NAME = "sheet.png"
SHEET_ROWS = 6
STRICT_PENALTY = 100.0  # subtracted from seen scores in the strict protocol: none of them can be the highest then
SLOW_LOG = 20.0  # seconds between progress lines where there is no terminal


def class_groups(class_list: ClassList, config: Config) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids of the seen and of the unseen classes; all are seen when the training was on another data set."""
    unseen = () if config.cross_dataset else class_list.unseen
    return tuple(index for index in range(len(class_list.names)) if index not in unseen), unseen


def predictions(
    model: ClipRC, dataset: Dataset, text: np.ndarray, class_list: ClassList, config: Config, ranks: Ranks = ALONE
) -> Iterator[tuple[int, EvaluationImage, np.ndarray]]:
    """(index, image, its (H, W) int32 class ids) of this rank's share of the data set in order, with a progress bar.

    Args:
        model: in evaluation mode.
        text: (C, D) float32 embeddings of all classes of the list.

    Raises:
        UserError: an image or label map that cannot be used.
    """
    features, (seen, _) = jt.array(text), class_groups(class_list, config)
    gamma = STRICT_PENALTY if config.test.protocol == "strict" else config.gamma()
    indices = range(ranks.rank, len(dataset), ranks.world)
    bar = tqdm(
        total=len(indices), desc=class_list.title, unit="image", dynamic_ncols=True, disable=not ranks.first,
        mininterval=0.2 if sys.stderr.isatty() else SLOW_LOG,
    )  # fmt: skip
    source = closing(evaluation_images(dataset, config, ranks.rank, ranks.world))
    with bar, source as images, keep_prompts(model.backbone):
        for index, image in zip(indices, images, strict=True):
            yield index, image, predict_views(model, image.images, features, seen, gamma, config.test, image.size)
            bar.update()


def summarise(matrix: ConfusionMatrix, class_list: ClassList, config: Config) -> dict:
    """The summary of `matrix`; a mean over classes of which the ground truth has no pixel is None (undefined).

    Without this rule pixels wrongly predicted as unseen would make mIoU(U) 0 where there was nothing to find.
    """
    seen, unseen = class_groups(class_list, config)
    metrics = matrix.summary(seen, unseen, class_list.names)
    for key, ids in (("mIoU(S)", seen), ("mIoU(U)", unseen)):
        if not matrix.label_area[list(ids)].any():
            metrics[key] = metrics["hIoU"] = None
    return metrics


def describe_protocol(config: Config) -> str:
    """How the evaluation differs from the usual one, for the line before the numbers; "" if it does not."""
    test, text = config.test, ""
    if test.protocol == "strict":
        text += ", strict protocol (unseen classes among themselves)"
    if test.scales != (1.0,) or test.flip:
        text += f", scales {', '.join(f'{scale:g}' for scale in test.scales)}{', mirrored too' if test.flip else ''}"
    return text


def _predict(
    model: ClipRC, dataset: Dataset, text: np.ndarray, class_list: ClassList, config: Config, ranks: Ranks,
    painter: Painter | None, breaks: Callable[[], AbstractContextManager] = nullcontext,
) -> tuple[ConfusionMatrix, str]:  # fmt: skip
    """Counts of all ranks, and the name of an image of this rank without label map ("" = none)."""
    matrix, unlabelled, interrupted = ConfusionMatrix(len(class_list.names)), "", False
    strict, (_, unseen) = config.test.protocol == "strict", class_groups(class_list, config)
    try:
        with breaks():
            for index, image, labels in predictions(model, dataset, text, class_list, config, ranks):
                truth = image.labels
                if truth is None:
                    unlabelled = image.name
                else:
                    matrix.update(labels, np.where(np.isin(truth, unseen), truth, IGNORED) if strict else truth)
                if painter is not None:
                    painter.add(index, labels)
    except Interrupted:
        interrupted = True
    if ranks.any(interrupted):
        raise Interrupted
    matrix.counts = ranks.sum(matrix.counts)
    return matrix, unlabelled


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
        work_dir: folder of metrics.json; None = it is not written.
        save_dir: folder of drawn images; None = nothing is drawn.
        ranks: the processes that share the images.
        breaks: context in which Interrupted may be raised.
        drawing_may_fail: whether images that cannot be written are a warning, as in training, not an error.

    Returns:
        The content of metrics.json: see `ConfusionMatrix.summary`.

    Raises:
        UserError: images without labels or that cannot be used, a folder that cannot be written.
        Interrupted: on all ranks, when it was raised on any.
    """
    painter = Painter(save_dir, dataset, class_list, config, drawing_may_fail) if save_dir is not None else None
    matrix, unlabelled = _predict(model, dataset, text, class_list, config, ranks, painter, breaks)
    if unlabelled:
        raise UserError(f"{unlabelled} has no label map: set data.val.labels, or use --task test")
    metrics = summarise(matrix, class_list, config)
    print(class_table(matrix, class_list.names, class_groups(class_list, config)[1]))
    if painter is not None:
        painter.finish(ranks)
    if work_dir is not None and ranks.first:
        write_json(Path(work_dir) / METRICS_NAME, metrics)
    print(f"{class_list.title}, {config.data.setting}, {len(dataset)} images{describe_protocol(config)}")
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
    """Writes label map and overlay of every image and a sheet of examples; returns the sheet's path.

    If all images have label maps, the summary line is printed too. Arguments and errors as of `evaluate`.
    """
    painter = Painter(save_dir, dataset, class_list, config)
    matrix, unlabelled = _predict(model, dataset, text, class_list, config, ranks, painter)
    if not unlabelled:
        print(headline(summarise(matrix, class_list, config)))
    return painter.finish(ranks)


class Painter:
    """Writes `<name>.png` (label map in the data set's own numbering), `<name>_overlay.png` and a sheet of examples.

    Args:
        may_fail: whether an image that cannot be written is a warning, after which no more are drawn.

    Raises:
        UserError: an image or label map of the data set would be overwritten.
    """

    def __init__(
        self, save_dir: Path, dataset: Dataset, class_list: ClassList, config: Config, may_fail: bool = False
    ) -> None:
        self.save_dir, self.dataset, self.class_list = Path(save_dir), dataset, class_list
        self.may_fail, self.failed = may_fail, False
        supervised = config.data.setting == "supervised"  # then no class was hidden in training
        unseen = () if supervised else class_groups(class_list, config)[1]
        self.classes = Classes(class_list.names, class_list.palette, unseen)
        self.title = f"{class_list.title}, {config.data.setting}"
        stored = stored_labels(np.arange(len(class_list.names)), class_list)
        self.stored_palette = np.zeros((int(stored.max()) + 1, 3), dtype=np.uint8)
        self.stored_palette[stored] = class_list.palette
        rows = np.linspace(0, len(dataset) - 1, min(len(dataset), SHEET_ROWS))
        self.in_sheet = set(np.round(rows).astype(int).tolist())
        self.examples: dict[int, Example] = {}  # by index in the data set
        if isinstance(dataset, SegmentationDataset):
            outputs = [path for name in dataset.names for path in output_paths(self.save_dir, name)]
            places = range(len(dataset))
            inputs = [path for i in places for path in (dataset.image_path(i), dataset.labels_path(i)) if path]
            check_outputs([*outputs, self.save_dir / SHEET_NAME], inputs)

    def add(self, index: int, labels: np.ndarray) -> None:
        """Writes label map and overlay of an image, labels (H, W) class ids."""
        if self.failed:
            return
        image, truth, name = self.dataset.read(index)
        label_path, overlay_path = output_paths(self.save_dir, name)
        with self._warn():
            write_label_map(label_path, stored_labels(labels, self.class_list), self.stored_palette)
            write_image(overlay_path, overlay_with_legend(image, labels, self.classes))
            if index in self.in_sheet:
                self.examples[index] = thumbnail(Example(name, image, labels, truth))

    @contextmanager
    def _warn(self) -> Iterator[None]:
        """With `may_fail`, turns a CannotWrite into a warning."""
        try:
            yield
        except CannotWrite as error:
            if not self.may_fail:
                raise
            self.failed = True
            print(f"warning: {error}; no more images are drawn in this evaluation", flush=True)

    def finish(self, ranks: Ranks) -> Path:
        """Writes the sheet unless a rank has failed, prints where everything is, and returns the sheet's path."""
        path = self.save_dir / SHEET_NAME
        examples = dict(sorted(item for share in ranks.all_gather(self.examples) for item in share.items()))
        if not ranks.any(self.failed):
            if ranks.first:
                with self._warn():
                    write_image(path, sheet(list(examples.values()), self.classes, self.title))
            if not self.failed:
                print(
                    f"label maps and overlays of {len(self.dataset)} images: {self.save_dir}\nsheet: {path}", flush=True
                )
        elif not self.failed:
            print("warning: another rank could not write its images", flush=True)
        return path
