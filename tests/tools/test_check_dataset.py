"""tools/check_dataset.py on prepared replicas of the three data sets, right and deliberately wrong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jseg.data.class_names import IGNORED
from jseg.errors import UserError
from tests.replicas import make_context, make_voc12, save_palette_png
from tools import check_dataset, prepare_context, prepare_voc12

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
Check = Callable[..., tuple[int, str]]
SERIAL = ["--workers", "0"]


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    """Runs the tool on a part of a data set: exit code and what it says."""

    def run(config: str, *arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        options = ["--config-file", str(CONFIGS / f"{config}.py"), *map(str, arguments)]
        return check_dataset.main(options), capsys.readouterr().out

    return run


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A prepared VOC 2012 aug."""
    replica = make_voc12(tmp_path)
    assert prepare_voc12.main([str(replica.root), "--sbd", str(replica.sources), *SERIAL]) == 0
    return replica.root


def test_prepared_voc_passes(voc: Path, check: Check) -> None:
    code, shown = check("voc12_inductive", "--allow-partial", f"data.root={voc}")
    lines = shown.splitlines()
    assert code == 0 and lines[-1] == "nothing wrong was found" and f"voc12: {voc}" in lines
    assert "train: 10 pairs, 10 of them read" in lines and "val: 8 pairs, 8 of them read" in lines
    stored = np.stack([np.array(Image.open(path)) for path in (voc / "SegmentationClass").glob("2009*.png")])
    row = next(line for line in lines if "sofa (unseen)" in line).split()
    maps = (stored == 18).any((1, 2)).sum()
    assert row[0] == "18" and row[-2:] == [f"{100 * (stored == 18).mean():.3f}", str(maps)]
    code, shown = check("voc12_inductive", f"data.root={voc}")
    assert code == 1 and "train has 10 images, the published runs 10,582 (--allow-partial" in shown
    assert shown.endswith("2 problems\n")


def test_prepared_context_passes_and_shifted_labels_do_not(tmp_path: Path, check: Check) -> None:
    replica = make_context(tmp_path)
    assert prepare_context.main([str(replica.root), "--mat", str(replica.sources), *SERIAL]) == 0
    arguments = ("context_inductive", "--allow-partial", "data.split=B", f"data.root={replica.root}")
    code, shown = check(*arguments, "--fraction", 0.5)
    assert code == 0 and "context (split B): " in shown and "train: 6 pairs, 3 of them read" in shown
    code, shown = check("cross_coco_to_context", "--allow-partial", f"data.root={replica.root}")
    assert code == 0 and "train:" not in shown
    for path in (replica.root / "SegmentationClassContext").glob("*.png"):
        stored = np.array(Image.open(path))
        save_palette_png(path, np.where(stored == 0, IGNORED, stored - 1))
    code, shown = check(*arguments)
    assert code == 1 and "labels are shifted by one: 0 (background) is in" in shown


def test_user_errors(voc: Path, check: Check) -> None:
    with pytest.raises(UserError, match=r"--fraction 0.0: must be above 0"):
        check("voc12_inductive", f"data.root={voc}", "--fraction", 0)
    code, shown = check("shapes_demo")
    assert code == 0 and "no files to check" in shown
