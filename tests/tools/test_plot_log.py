"""Tests of tools/plot_log.py."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from jseg.errors import UserError
from tools import plot_log

pytest.importorskip("matplotlib")


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


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_several_runs_are_drawn(tmp_path: Path, count: int, capsys: pytest.CaptureFixture) -> None:
    runs = [str(write_log(tmp_path, name, scale)) for name, scale in (("first", 1.0), ("second", 0.5))][:count]
    output, lines = tmp_path / "curves.png", next(iter(plot_log.read_runs([Path(runs[0])]).values()))
    assert plot_log.points(lines, "evaluation", "metrics", "mIoU(U)") == [(10, 20.0)]  # not where it is undefined
    assert plot_log.main([*runs, "--output", str(output)]) == 0
    image = cv2.imread(str(output))
    assert image.shape[0] > 500 and (image < 250).any(axis=-1).mean() > 0.01
    assert f"{count} run" in capsys.readouterr().out
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
