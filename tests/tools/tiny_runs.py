"""A configuration that trains in seconds, and tools/run_net.py called with it, mistakes included."""

from jseg.runtime.command_line import run

from pathlib import Path

import pytest

from tools import run_net

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = REPOSITORY / "tools" / "run_net.py"

TINY = """
data = dict(
    dataset="shapes", crop_size=(64, 64), resize_box=(256, 64), workers=0,
    shapes=dict(size=(64, 64), train_scenes=40, val_scenes=3),
)
model = dict(
    image_size=64, width=32, layers=2, heads=2, output_dim=16, prompts=2, region_grid=2, decoder_layers=2,
    decoder_heads=4, init="random",
)
text = dict(vocabulary="generated", width=32, layers=1, heads=2, context_length=16)
optimizer = dict(lr=1e-4, warmup_iterations=0)
train = dict(iterations=4, batch_size=2, log_every=1, save_every=2)
test = dict(short_side=64, crop_size=(64, 64), stride=(48, 48))
"""

VOC = """
base = "tiny.py"
data = dict(
    dataset="voc12", root=".",
    train=dict(images="images", labels="labels", names="train.txt"),
    val=dict(images="images", labels="labels", names="val.txt"),
)
"""


def command(config: Path, *rest: str) -> list[str]:
    return ["--config-file", str(config), "--work-dir", str(config.parent / "run"), "--device", "cpu", *rest]


def exit_of(arguments: list[str], capsys: pytest.CaptureFixture) -> tuple[int, str]:
    """Exit code and standard error of the tool, through the helper that every tool ends in."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(lambda: run_net.main(arguments))
    return stop.value.code, capsys.readouterr().err


def refused(arguments: list[str], capsys: pytest.CaptureFixture, *words: str) -> None:
    """Checks exit code 2 and one line that holds `words`."""
    code, shown = exit_of(arguments, capsys)
    lines = [line for line in shown.splitlines() if line]
    assert code == 2 and lines and lines[-1].startswith("error: "), shown
    assert not any("Traceback" in line for line in lines)
    assert all(word in lines[-1] for word in words), lines[-1]
