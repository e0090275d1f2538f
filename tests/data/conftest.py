"""A small data set in PASCAL VOC's layout, made of drawn images."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from jseg.config import DataConfig, SplitConfig
from tests.replicas import save_palette_png

NAMES = ("a1", "b2", "c3")


@pytest.fixture
def voc(tmp_path: Path) -> DataConfig:
    """Three images of 48x36 pixels with labels 0, 1..20 and 255; all in train, the first in val."""
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        image = cv2.resize(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (48, 36))
        cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), image)
        stored = np.repeat(np.arange(48) % 21, 36).reshape(48, 36).T.copy()
        stored[:3], stored[20:, :10] = 255, number + 1
        save_palette_png(root / "SegmentationClass" / f"{name}.png", stored)
    (root / "ImageSets" / "train.txt").write_text("\n".join(NAMES) + "\n")
    (root / "ImageSets" / "val.txt").write_text(f"{NAMES[0]}  \n\n")
    splits = {
        split: SplitConfig(images="JPEGImages", labels="SegmentationClass", names=f"ImageSets/{split}.txt")
        for split in ("train", "val")
    }
    return DataConfig(dataset="voc12", root=str(root), resize_box=(128, 32), crop_size=(32, 32), workers=2, **splits)
