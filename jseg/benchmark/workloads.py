"""What is timed: forward pass, training step, attention alone, evaluation of pictures, start-up."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from jseg.benchmark import arithmetic
from jseg.benchmark.arithmetic import Sizes
from jseg.config import Config, ModelConfig
from jseg.errors import UserError

TASKS = ("forward", "train", "attention", "attention-forward", "evaluate", "startup")
SIZES = {
    "voc": Sizes(ModelConfig(), 20, 512),
    "coco": Sizes(ModelConfig(prompts=100), 171, 512),
    "shapes": Sizes(
        ModelConfig(image_size=96, patch_size=8, width=160, layers=4, heads=5, output_dim=128, prompts=4), 20, 96
    ),
}
SEEN = {"voc": 15, "coco": 156, "shapes": 15}  # classes of an inductive training step


@dataclass(frozen=True)
class Workload:
    """Something to time, and what it should cost."""

    run: Callable[[], None]
    operations: float = 0.0
    bytes_moved: float = 0.0


def _model(sizes: Sizes) -> tuple:
    """A model with random weights, not yet in another precision, and random class embeddings (C, D)."""
    from jseg.model.clip_rc import build_clip_rc
    from jseg.model.initial_weights import initialise

    sizes.model.init = "random"
    model = build_clip_rc(sizes.model)
    initialise(model, sizes.model, 0)
    text = np.random.default_rng(0).standard_normal((sizes.classes, sizes.model.output_dim)).astype(np.float32)
    return model, text / np.linalg.norm(text, axis=1, keepdims=True)


def _images(sizes: Sizes) -> np.ndarray:
    shape = (sizes.batch, 3, sizes.image, sizes.image)
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


def forward(sizes: Sizes) -> Workload:
    """Pictures to label maps at their size."""
    import jittor as jt

    from jseg.engine.sliding_window import highest_classes
    from jseg.model.precision import set_precision
    from jseg.ops.bilinear import resize_bilinear

    (model, text), images, size = _model(sizes), _images(sizes), (sizes.image, sizes.image)
    set_precision(model, sizes.precision)
    text = jt.array(text)

    model.backbone.kept_prompts = {}  # as from the second picture of a data set on

    def run() -> None:
        with jt.no_grad():
            logits = resize_bilinear(model(jt.array(images), text), size)
            for maps in logits:
                highest_classes([(0, maps)], size)

    return Workload(run, arithmetic.forward_operations(sizes), arithmetic.forward_bytes(sizes))


def train(sizes: Sizes) -> Workload:
    """A training step: forward, losses, backward, AdamW."""
    from jseg.engine.trainer import Trainer
    from jseg.model.clip_rc import set_training

    (model, text), images = _model(sizes), _images(sizes)
    config = Config(model=sizes.model, precision=sizes.precision)
    trainer = Trainer(model, text, (), config)
    set_training(model, True)
    shape = (sizes.batch, sizes.image, sizes.image)
    labels = np.random.default_rng(2).integers(0, sizes.classes, shape).astype(np.int32)
    return Workload(
        lambda: trainer.step(images, labels, 0) and None,
        arithmetic.training_operations(sizes),
        arithmetic.training_bytes(sizes),
    )


def attention(sizes: Sizes, backward: bool = True) -> Workload:
    """Region attention of one layer, forward and (unless told otherwise) backward."""
    import jittor as jt

    from jseg.model.precision import COMPUTE_TYPES, check_device
    from jseg.ops.attention import region_attention
    from jseg.ops.half import cast, widen

    check_device(sizes.precision)
    model, side = sizes.model, sizes.image // sizes.model.patch_size
    generator, dtype = np.random.default_rng(0), COMPUTE_TYPES[sizes.precision]
    tokens = 1 + sizes.patches + sizes.regions
    projected, prompts, outer = (
        cast(jt.array(generator.standard_normal((sizes.batch, rows, columns), dtype=np.float32)), dtype)
        for rows, columns in (
            (tokens, 3 * model.width),
            (model.prompts, 3 * model.width),
            (tokens, model.width),
        )
    )
    structure = (1, (side, side), (model.region_grid, model.region_grid))

    def forward() -> None:
        with jt.no_grad():
            region_attention(projected, prompts, model.heads, *structure).sync(True)

    def both() -> None:
        output = region_attention(projected, prompts, model.heads, *structure)
        jt.sync(jt.grad((widen(output) * widen(outer)).sum(), [projected, prompts]), device_sync=True)

    one = sizes.batch * arithmetic.attention_operations(sizes)
    moved = arithmetic.FLOAT * sizes.batch * model.width * (4 * tokens + 3 * model.prompts)
    if backward:
        return Workload(both, one * (1 + arithmetic.BACKWARD_ATTENTION), 2 * moved)
    return Workload(forward, one, moved)


def evaluate(sizes: Sizes) -> Workload:
    """One picture of 4:3 through sliding windows to labels at its size."""
    import jittor as jt

    from jseg.config import TestConfig
    from jseg.engine.sliding_window import ImageScores
    from jseg.model.precision import set_precision

    model, text = _model(sizes)
    set_precision(model, sizes.precision)
    model.backbone.kept_prompts = {}  # as from the second picture of a data set on
    text, width = jt.array(text), sizes.image * 4 // 3
    image = np.random.default_rng(1).standard_normal((3, sizes.image, width), dtype=np.float32)
    stride = sizes.image * 5 // 6
    config = TestConfig(crop_size=(sizes.image, sizes.image), stride=(stride, stride), window_batch=sizes.batch)
    windows = 2  # as long as a stride is less than the picture is wider than a window
    return Workload(
        lambda: ImageScores(model, image, text, range(sizes.classes // 2), 0.1, config).labels() is None,
        windows * arithmetic.forward_operations(sizes) / sizes.batch,
        windows * arithmetic.forward_bytes(sizes) / sizes.batch,
    )


def startup(sizes: Sizes) -> Workload:
    """A new process up to its first operator; kernels of earlier runs are on disk."""
    code = "from jseg.runtime.start import start; start('cpu'); import jittor as jt; (jt.ones((2, 2)) * 2).sync()"
    return Workload(lambda: subprocess.run([sys.executable, "-c", code], check=True) and None)


def chosen_sizes(
    task: str, size: str, batch: int, classes: int | None = None, precision: str = "fp32",
    image: int | None = None, prompts: int | None = None,
) -> Sizes:  # fmt: skip
    """One of `SIZES` with changes; `classes` None = those of the data set (seen ones in training)."""
    base = SIZES[size]
    count = classes or (SEEN[size] if task == "train" else base.classes)
    model = replace(base.model, prompts=prompts or base.model.prompts)
    return Sizes(model, count, image or base.image, batch, precision)


def prepare(task: str, sizes: Sizes) -> Workload:
    """The workload of a task.

    Raises:
        UserError: an image that the model cannot take.
    """
    if sizes.image % sizes.model.patch_size:
        raise UserError(f"--image {sizes.image}: must be a multiple of the patch size {sizes.model.patch_size}")
    makers = {
        "forward": forward, "train": train, "attention": attention, "evaluate": evaluate, "startup": startup,
        "attention-forward": partial(attention, backward=False),
    }  # fmt: skip
    return makers[task](sizes)


@dataclass(frozen=True)
class Timing:
    """Seconds of repeated runs."""

    first: float  # with compilation, where kernels are new
    all: tuple[float, ...]
    peak_bytes: int  # of the process, from its start

    @property
    def median(self) -> float:
        """Of the runs after warm-up."""
        return statistics.median(self.all)


def measure(run: Callable[[], None], repeats: int, warm_up: int = 2) -> Timing:
    """Times `run`: once, `warm_up - 1` times unmeasured, then `repeats` times."""
    seconds = []
    for _ in range(warm_up + repeats):
        start = time.perf_counter()
        run()
        wait()
        seconds.append(time.perf_counter() - start)
    return Timing(seconds[0], tuple(seconds[warm_up:]), peak())


def _jittor_on_cuda() -> Any | None:
    """Jittor, when it runs on a GPU in this process; a workload may not have started it."""
    jittor = sys.modules.get("jittor")
    return jittor if jittor is not None and jittor.flags.use_cuda else None


def wait() -> None:
    """Returns when the GPU has done all that it was given."""
    if (jittor := _jittor_on_cuda()) is not None:
        jittor.sync_all(True)


def peak() -> int:
    """Peak memory in bytes: of the process, or on a GPU what Jittor has taken from it, which only grows."""
    if (jittor := _jittor_on_cuda()) is not None:
        return jittor.get_mem_info().total_cuda_used
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def product_rate(precision: str, size: int = 1536) -> float:
    """Floating-point operations a second of a large matrix product, the best of five; the floor is counted with it."""
    import jittor as jt

    from jseg.model.precision import COMPUTE_TYPES
    from jseg.ops.half import cast
    from jseg.ops.linear import linear

    x = jt.array(np.random.default_rng(0).standard_normal((size, size), dtype=np.float32))
    x = cast(x, COMPUTE_TYPES[precision])

    def run() -> None:
        with jt.no_grad():
            linear(x, x).sync(True)

    return 2.0 * size**3 / min(measure(run, 5).all)
