"""Evaluation of a small model on images in memory: metrics, files and what is printed."""

import csv
import json
from pathlib import Path
from unittest.mock import patch

import cv2
import jittor as jt
import numpy as np
import pytest
from PIL import Image

import jseg
from jseg.config import Config, ModelConfig, SplitConfig
from jseg.data import transforms
from jseg.data.class_names import class_labels, class_list
from jseg.data.dataset import open_dataset
from jseg.drawing import confusion_image
from jseg.engine import sliding_window
from jseg.engine.checkpoint import METRICS_NAME, VAL_FILES
from jseg.engine.evaluate import SHEET_NAME, Drawings, evaluate
from jseg.engine.sliding_window import ImageScores
from jseg.errors import UserError
from jseg.files import JSON_MARK
from jseg.metrics import ConfusionMatrix, headline
from jseg.model.clip_rc import ClipRC, build_clip_rc
from jseg.model.initial_weights import initialise
from jseg.ops.device import normalise
from jseg.outputs import is_ours

CLASSES = class_list("voc12")


class NoisyImages:
    """Noisy images of different sizes, with label maps unless told otherwise."""

    class_list = CLASSES

    def __init__(self, sizes: list[tuple[int, int]], labels: bool = True) -> None:
        self.sizes, self.labels = sizes, labels

    def __len__(self) -> int:
        return len(self.sizes)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray | None, str]:
        rng = np.random.default_rng(index)
        image = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((20, 20, 1))).astype(np.uint8)
        labels = rng.choice([0, 3, 16, 19, 255], (4, 4)).astype(np.uint8).repeat(20, axis=0).repeat(20, axis=1)
        height, width = self.sizes[index]
        labels = transforms.resize_labels(labels, (height, width)) if self.labels else None
        return transforms.resize_image(image, (height, width)), labels, f"image_{index}"


@pytest.fixture(scope="module")
def model() -> ClipRC:
    config = small_config().model
    result = build_clip_rc(config)
    initialise(result, config, 0)
    return result


def small_config() -> Config:
    config = Config()
    config.data.dataset = "voc12"
    config.model = ModelConfig(image_size=64, width=32, layers=2, heads=2, output_dim=16, prompts=2, region_grid=2,
                               decoder_layers=1, decoder_heads=2)  # fmt: skip
    config.test.short_side, config.test.crop_size, config.test.stride = 64, (64, 64), (53, 53)
    return config


def embeddings() -> np.ndarray:
    rows = np.random.default_rng(5).standard_normal((20, 16)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def image_scores(
    model: ClipRC, dataset: NoisyImages, index: int, config: Config, seen: tuple[int, ...], gamma: float
) -> tuple[ImageScores, tuple[int, int]]:
    """Scores of an image without loader and evaluator, and its size."""
    image, _, _ = dataset.read(index)
    size = image.shape[:2]
    image = transforms.resize_image(image, transforms.box_size(size, np.inf, 64))
    pixels = normalise(image.transpose(2, 0, 1), config.data)
    return ImageScores(model, pixels, jt.array(embeddings()), seen, gamma, config.test), size


@pytest.mark.parametrize("cross_dataset", [False, True])
def test_metrics_and_images(model: ClipRC, tmp_path: Path, capsys: pytest.CaptureFixture, cross_dataset: bool) -> None:
    dataset, config = NoisyImages([(48, 64), (100, 64), (64, 64), (33, 90)]), small_config()
    config.cross_dataset = cross_dataset
    metrics = evaluate(model, dataset, embeddings(), config, tmp_path, tmp_path / "images")
    seen, unseen = (tuple(range(20)), ()) if cross_dataset else (CLASSES.seen, CLASSES.unseen)
    matrix, alone = ConfusionMatrix(20), []
    for index in range(len(dataset)):
        scores, size = image_scores(model, dataset, index, config, seen, config.gamma())
        matrix.update(labels := scores.labels(size), truth := dataset.read(index)[1])
        ious = [((labels == i) & (truth == i)).sum() / (((labels == i) | (truth == i)) & (truth < 255)).sum()
                for i in np.unique(truth[truth < 255])]  # fmt: skip
        alone.append(100 * np.mean(ious))
        with Image.open(tmp_path / "images" / f"image_{index}.png") as image:
            stored, colours = np.asarray(image), np.asarray(image.convert("RGB"))
        # the data set's own numbering, so that the file could be read as one of its label maps
        np.testing.assert_array_equal(class_labels(stored, CLASSES, "prediction"), labels)
        np.testing.assert_array_equal(colours, CLASSES.palette[labels])
    assert metrics == matrix.summary(seen, unseen, CLASSES.names)
    assert (metrics["mIoU(U)"] is None) == cross_dataset
    assert json.loads((tmp_path / METRICS_NAME).read_text()) == {JSON_MARK: jseg.__version__, **metrics}
    assert (tmp_path / "confusion.csv").read_text() == matrix.csv_table(CLASSES.names)
    with Image.open(tmp_path / "confusion.png") as image:
        np.testing.assert_array_equal(image, confusion_image(matrix.counts, CLASSES.names, unseen))
    assert all(is_ours(tmp_path / name) for name in VAL_FILES)
    _, *lines = csv.reader((tmp_path / "images.csv").read_text().splitlines())
    assert [line[0] for line in lines] == [f"image_{index}" for index in range(4)]
    np.testing.assert_allclose([float(line[1]) for line in lines], alone, atol=0.005)  # two decimals
    printed = capsys.readouterr()
    assert headline(metrics) in printed.out.splitlines()
    assert (" unseen " in printed.out) != cross_dataset  # beside the name of a class
    assert "4/4" in printed.err  # the progress bar
    names = {item.name for item in (tmp_path / "images").iterdir()}
    assert names == {SHEET_NAME} | {f"image_{i}{end}.png" for i in range(4) for end in ("", "_overlay")}


def test_rows_of_the_sheet_say_the_iou_of_the_labelled_classes(tmp_path: Path) -> None:
    drawings, image = Drawings(tmp_path, dataset := NoisyImages([(40, 40)]), small_config()), dataset.read(0)[0]
    truth = np.full((40, 40), 255)
    truth[:10], truth[10:20] = 3, 7
    for labels, caption in ((truth, "x: mIoU of its classes 25.0"), (np.full_like(truth, 255), "x")):
        dataset.read = lambda index, labels=labels: (image, labels, "x")
        drawings.add(0, np.full((40, 40), 3))  # class 3: 10 of 20 rows are right, class 7: none; no other class counts
        assert drawings.examples[0][0] == caption


def test_strict_protocol(model: ClipRC, capsys: pytest.CaptureFixture[str]) -> None:
    """Only pixels of unseen classes count, and they get the best of the unseen classes, whatever gamma is."""
    dataset, config = NoisyImages([(48, 64), (100, 64)]), small_config()
    config.test.protocol, config.test.gamma = "strict", 0.0
    metrics = evaluate(model, dataset, embeddings(), config)
    matrix = ConfusionMatrix(20)
    for index in range(len(dataset)):
        found, size = image_scores(model, dataset, index, config, (), 0.0)
        best = found.scores(size)[list(CLASSES.unseen)].argmax(axis=0)
        truth = dataset.read(index)[1]
        matrix.update(np.array(CLASSES.unseen)[best], np.where(np.isin(truth, CLASSES.unseen), truth, 255))
    assert metrics == {**matrix.summary((), CLASSES.unseen, CLASSES.names), "mIoU(S)": None, "hIoU": None}
    assert metrics["mIoU(U)"] is not None and metrics["IoU"]["cow"] is None
    assert "strict protocol" in capsys.readouterr().out.splitlines()[-2]


def test_images_without_labels(model: ClipRC, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset, config = NoisyImages([(48, 64)], labels=False), small_config()
    assert evaluate(model, dataset, embeddings(), config, save_dir=tmp_path, labels_needed=False) == {}
    assert (tmp_path / SHEET_NAME).is_file()
    assert "pAcc" not in capsys.readouterr().out
    with pytest.raises(UserError, match="image_0 has no label map"):
        evaluate(model, dataset, embeddings(), config, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_images_and_labels_of_the_data_set_are_never_overwritten(model: ClipRC, tmp_path: Path) -> None:
    folder, config = tmp_path / "SegmentationClass", small_config()
    folder.mkdir()
    image, labels, _ = NoisyImages([(48, 64)]).read(0)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    cv2.imwrite(str(folder / "a.png"), labels)
    config.data.root, config.data.val = str(tmp_path), SplitConfig(".", folder.name, image_suffix=".png")
    dataset, inputs = open_dataset(config.data, "val"), (folder / "a.png", tmp_path / "a.png")
    before = [path.read_bytes() for path in inputs]
    for save_dir in (folder, tmp_path):
        with pytest.raises(UserError, match=r"a\.png itself would be overwritten"):
            evaluate(model, dataset, embeddings(), config, save_dir=save_dir)
    assert before == [path.read_bytes() for path in inputs]
    for name in ("a.png", "a_overlay.png", SHEET_NAME):
        images = tmp_path / f"images_{name}"
        images.mkdir()
        (images / name).write_text("the user's own")
        with pytest.raises(UserError, match=f"{name} was not written by jseg"):
            evaluate(model, dataset, embeddings(), config, save_dir=images)
        assert len(list(images.iterdir())) == 1
    for overwrite in (True, False):  # then it is ours
        evaluate(model, dataset, embeddings(), config, save_dir=images, overwrite=overwrite)
    assert before == [path.read_bytes() for path in inputs]


@pytest.mark.parametrize("flip", [False, True])
def test_results_that_are_not_finite_give_no_metrics(model: ClipRC, tmp_path: Path, flip: bool) -> None:
    """One NaN would make class 0 the highest everywhere. The host waits once for the results of all views."""
    rows, config = embeddings(), small_config()
    rows[3, 0], config.test.flip = np.nan, flip
    told = pytest.raises(UserError, match="results are not finite")
    with patch.object(sliding_window, "check_finite", wraps=sliding_window.check_finite) as check, told:
        evaluate(model, NoisyImages([(48, 64)]), rows, config, tmp_path)
    assert not list(tmp_path.iterdir()) and check.call_count == 1
