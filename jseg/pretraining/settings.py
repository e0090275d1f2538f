"""Settings of a pre-training run: sizes of the towers, optimiser, and the stages that its images go through."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from jseg.config import OptimizerConfig

SCENE_SIZE = (96, 96)  # height, width of the scenes that images are cut from


@dataclass(frozen=True)
class Stage:
    """A stretch of the run; its images are square windows of scenes, `pixels / zoom` wide, around an object."""

    iterations: int
    batch_size: int
    pixels: int  # side of the images
    objects: tuple[int, int]  # least, most per scene
    zoom: tuple[float, float] | None  # lowest, highest; None = whole scenes


@dataclass(frozen=True)
class Round:
    """Stages under one arc of the learning rate: warm-up to `lr`, linear decay to nearly 0, fresh moments of AdamW."""

    lr: float
    warmup: int  # steps
    stages: tuple[Stage, ...]
    arc: int = 0  # steps of the whole decay; 0 = those of the round, more = the round ends before the decay does

    @property
    def iterations(self) -> int:
        """Length in steps."""
        return sum(stage.iterations for stage in self.stages)


# Patches with a colour and a pattern first, then whole objects, then several of them. Small images have few patches,
# so the early stages see many of them in the same time. The last round is for scenes as segmentation meets them.
ROUNDS = (
    Round(1e-3, 150, (Stage(1200, 128, 32, (1, 1), (0.8, 2.0)), Stage(550, 96, 48, (1, 1), (0.7, 1.8))), arc=3750),
    Round(7e-4, 50, (Stage(250, 72, 64, (1, 2), (0.75, 1.4)), Stage(550, 72, 64, (1, 4), (0.75, 1.4)))),
    Round(3e-4, 30, (Stage(250, 40, 96, (1, 4), None),)),
)


# Rate and warm-up are those of the round.
OPTIMIZER = OptimizerConfig(
    lr_factor=1.0, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.05, groups="stated", power=1.0, min_lr=1e-5,
    warmup_ratio=1e-2,
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """Everything that shapes a run but the seed of its data. The defaults make the shipped file."""

    rounds: tuple[Round, ...] = ROUNDS
    image_size: int = 96  # the positional grid is stored for images of this side
    patch_size: int = 8
    image_width: int = 160
    image_layers: int = 4
    image_heads: int = 5
    text_width: int = 96
    text_layers: int = 3
    text_heads: int = 4
    context_length: int = 48
    output_dim: int = 128
    merges: int = 300  # of the byte-pair vocabulary, at most
    vocabulary_captions: int = 5000  # that it is learned from
    seed: int = 0
    workers: int = 1  # processes that draw ahead; the images are the same for any number
    log_every: int = 50

    @property
    def iterations(self) -> int:
        """Length of the run in steps."""
        return sum(item.iterations for item in self.rounds)

    def at(self, iteration: int) -> tuple[Round, int, Stage]:
        """The round of a step (0-based), the first step of that round, and the stage of the step."""
        end = 0
        for item in self.rounds:
            start = end
            for stage in item.stages:
                end += stage.iterations
                if iteration < end:
                    return item, start, stage
        raise IndexError(f"iteration {iteration} of {self.iterations}")

    def described(self) -> dict[str, Any]:
        """The settings that decide the result."""
        result = {key: value for key, value in asdict(self).items() if key not in ("workers", "log_every")}
        return result | {"optimizer": asdict(OPTIMIZER)}
