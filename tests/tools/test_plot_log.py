"""Tests of tools/plot_log.py."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib import pyplot

from jseg.drawing_curves import smoothed
from jseg.errors import UserError
from tools import plot_log


def write_log(folder: Path, name: str, scale: float) -> Path:
    """A work folder with a log of ten reports and two evaluations, one of them undefined in part."""
    lines = [{"event": "start", "iteration": 0}]
    for iteration in range(1, 11):
        losses = {"mask": scale / iteration, "total": 2 * scale / iteration}
        lines.append({"event": "train", "iteration": iteration, "losses": losses, "lr": 1e-3, "gradient_norm": 1.0})
    lines.append({"event": "train", "iteration": 11, "losses": {}, "lr": 1e-3})
    for iteration, unseen in ((5, None), (10, 20.0)):
        metrics = {"mIoU(S)": 30.0 * scale, "mIoU(U)": unseen, "hIoU": unseen, "IoU": {"cat": 1.0}}
        lines.append({"event": "evaluation", "iteration": iteration, "metrics": metrics})
    (folder / name).mkdir()
    (folder / name / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"event": "tr')
    return folder / name


def test_the_mean_of_neighbours_follows_straight_lines_and_is_that_of_a_tenth_of_the_run() -> None:
    values = np.random.default_rng(0).normal(size=100)
    expected = [values[max(i - 5, 0) : i + min(i, 5, 99 - i) + 1].mean() for i in range(100)]
    np.testing.assert_allclose(smoothed(values), expected, atol=1e-12)  # sums of 100 float64
    np.testing.assert_allclose(smoothed(np.arange(50.0))[:48], np.arange(48), atol=1e-12)
    assert smoothed(values[:19]).tolist() == pytest.approx(values[:19])  # few values stay as they are
    assert smoothed(values[:0]).size == 0


@pytest.mark.parametrize("count", [1, 2])
def test_runs_drawn(tmp_path: Path, count: int, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [str(write_log(tmp_path, name, scale)) for name, scale in (("first", 1.0), ("second", 0.5))][:count]
    output, figures = tmp_path / "curves.png", []
    monkeypatch.setattr(pyplot, "close", figures.append)
    assert plot_log.main([*runs, "--output", str(output)]) == 0
    panels = {panel.get_title(): panel for panel in figures[0].axes}
    assert list(panels) == ["loss: total", "gradient norm", "lr", "mIoU(S)", "mIoU(U)", "hIoU", "loss: mask"]
    widths = [panel.get_position().width for panel in panels.values()]
    assert widths[0] > 1.5 * widths[1] and widths[3] == pytest.approx(widths[4], rel=0.01)
    curves = {name: [line.get_xydata().tolist() for line in panel.lines] for name, panel in panels.items()}
    assert curves["mIoU(U)"] == [[[10, 20]]] * count  # not where it is undefined
    assert curves["mIoU(S)"] == [[[5, x], [10, x]] for x in (30, 15)[:count]]
    assert len(curves["loss: total"]) == 2 * count and curves["loss: total"][0][1] == [2, 1]  # faint and smoothed
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    metrics = ["mIoU(S) 30.00  mIoU(U) 20.00  hIoU 20.00", "mIoU(S) 15.00  mIoU(U) 20.00  hIoU 20.00"]
    assert legend == [f"{run}  {text}" for run, text in zip(runs, metrics, strict=False)]
    assert capsys.readouterr().out.splitlines() == [*legend, f"curves: {output}"]
    assert cv2.imread(str(output)).shape[0] > 500
    with pytest.raises(UserError, match="holds no log of a training run"):
        plot_log.main([str(tmp_path), "--output", str(tmp_path / "new.png")])
    with pytest.raises(UserError, match=r"curves\.png exists \(--overwrite"):
        plot_log.main([*runs, "--output", str(output)])
    photo = tmp_path / "photo.png"
    photo.write_bytes(output.read_bytes())
    output.unlink()
    output.symlink_to(photo)
    assert plot_log.main([*runs[:1], "--output", str(output), "--overwrite"]) == 0
    assert not output.is_symlink() and photo.stat().st_nlink == 1 and not list(tmp_path.glob(".*"))
