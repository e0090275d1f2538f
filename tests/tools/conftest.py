"""Fixtures of the tools' tests: configurations that train in seconds, and what such a run leaves."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.tools.tiny_runs import TINY, VOC, run_net


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A config that trains in seconds on drawn shapes."""
    (tmp_path / "tiny.py").write_text(TINY)
    return tmp_path / "tiny.py"


@pytest.fixture
def voc(tiny: Path) -> Path:
    """A config with two noise images and palette PNGs in PASCAL VOC's layout beside it."""
    folder = tiny.parent
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for name in ("a", "b"):
        cv2.imwrite(str(folder / "images" / f"{name}.jpg"), rng.integers(0, 256, (70, 90, 3), dtype=np.uint8))
        labels = Image.fromarray(rng.integers(0, 21, (7, 9), dtype=np.uint8).repeat(10, 0).repeat(10, 1), "P")
        labels.putpalette(bytes(range(256)) * 3)
        labels.save(folder / "labels" / f"{name}.png")
    (folder / "train.txt").write_text("a\nb\n")
    (folder / "val.txt").write_text("b\n")
    (folder / "voc.py").write_text(VOC)
    return folder / "voc.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of a finished run of the tiny config, beside the config."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.py").write_text(TINY)
    assert run_net.main(["--config-file", str(folder / "tiny.py"), "--work-dir", str(folder / "run"), "--no-cuda"]) == 0
    return folder / "run"
