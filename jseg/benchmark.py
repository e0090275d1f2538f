"""How fast jseg is: timed workloads, and the operations that they need by formula.

Counted is what the formulae need after jseg's exact rewrites: a product of (m, k) and (k, n) is 2 m k n operations.
"""

import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from typing import Any

import jittor as jt
import numpy as np
from jittor import nn

from jseg.config import Config, ModelConfig, TestConfig
from jseg.engine.sliding_window import ImageScores, highest_classes
from jseg.engine.train import StepReport, Trainer
from jseg.errors import UserError
from jseg.model.clip_rc import build_clip_rc, set_training
from jseg.model.initial_weights import initialise
from jseg.model.precision import COMPUTE_TYPES, set_precision
from jseg.ops.attention import region_attention
from jseg.ops.bilinear import resize_bilinear
from jseg.ops.half import cast, widen
from jseg.ops.layers import linear

ATTENTION_STEP = 3.0  # backward, four products where the forward pass has two; recomputed scores are not counted


@dataclass(frozen=True)
class Sizes:
    """What the work depends on."""

    model: ModelConfig
    classes: int
    image: int  # pixels a side
    batch: int = 1
    precision: str = "fp32"

    @property
    def patches(self) -> int:
        """N, the number of patches of an image."""
        return (self.image // self.model.patch_size) ** 2


def attention_operations(sizes: Sizes) -> float:
    """Region attention of one layer and one image: scores and weighted values."""
    dense = 1 + sizes.patches
    pairs = dense * (dense + sizes.model.prompts) + 2 * sizes.patches + sizes.model.region_grid**2
    return 4.0 * pairs * sizes.model.width


def operations(sizes: Sizes, training: bool) -> float:
    """One evaluation pass over a batch, or one training step."""
    model, depth = sizes.model, sizes.model.output_dim
    queries = model.region_grid**2 * sizes.classes
    tokens, side = 1 + sizes.patches + model.region_grid**2, sizes.image // model.patch_size
    tower = model.layers * 2.0 * tokens * 12 * model.width**2  # blocks without prompts
    tower += 2.0 * sizes.patches * model.width * 3 * model.patch_size**2  # pixels of patches
    tower += 2.0 * tokens * model.width * depth
    head = 2.0 * depth * depth * (queries + sizes.classes + tokens)
    head += 2.0 * sizes.classes * sizes.patches * depth
    head += 2.0 * sizes.classes * side * sizes.image * (side + sizes.image)  # from the patch grid to pixels
    attention = model.layers * attention_operations(sizes)
    for _ in range(model.decoder_layers + (model.recovery_layers if training else 0)):
        for rows, memory in ((queries, sizes.patches), (sizes.patches, queries)):
            head += 2.0 * depth * depth * (2 * rows + 2 * memory + 2 * model.ffn_factor * rows)
            attention += 4.0 * rows * memory * depth
    if not training:
        return sizes.batch * (tower + head + attention)
    # prompts and their projections; computed once for a whole evaluation, so not counted there
    tower += model.layers * 2.0 * model.prompts * 4 * model.width**2
    head += 2.0 * depth * depth * (3 * queries + 2 * sizes.patches)
    below = 2.0 * tokens * 3 * model.width**2 + 2.0 * sizes.patches * model.width * 3 * model.patch_size**2
    # gradients of the inputs alone in the frozen tower, down to the first prompts; of the weights, too, in the head
    return sizes.batch * (2 * tower - below + 3 * head + ATTENTION_STEP * attention)


SMALL = ModelConfig(image_size=96, patch_size=8, width=160, layers=4, heads=5, output_dim=128, prompts=4)
COCO = ModelConfig(prompts=100)
SIZES = {"voc": Sizes(ModelConfig(), 20, 512), "coco": Sizes(COCO, 171, 512), "shapes": Sizes(SMALL, 20, 96)}
SEEN = {"voc": 15, "coco": 156, "shapes": 15}  # classes of an inductive training step
Workload = tuple[Callable[[], object], float]  # what to time, and the operations that it needs


def _model(sizes: Sizes, training: bool = False) -> tuple:
    """A model with random weights, random class embeddings (C, D) and images."""
    sizes.model.init = "random"
    model = build_clip_rc(sizes.model)
    initialise(model, sizes.model, 0)
    if not training:
        set_precision(model, sizes.precision)
        model.backbone.kept_prompts = {}  # as from the second image of a data set on
    text = np.random.default_rng(0).standard_normal((sizes.classes, sizes.model.output_dim)).astype(np.float32)
    images = np.random.default_rng(1).standard_normal((sizes.batch, 3, sizes.image, sizes.image), dtype=np.float32)
    return model, text / np.linalg.norm(text, axis=1, keepdims=True), images


def forward(sizes: Sizes) -> Workload:
    """Images to label maps at their size."""
    (model, text, images), size = _model(sizes), (sizes.image, sizes.image)
    text = jt.array(text)

    def run() -> None:
        with jt.no_grad():
            for maps in resize_bilinear(model(jt.array(images), text), size):
                highest_classes([(0, maps)], size)

    return run, operations(sizes, training=False)


def train(sizes: Sizes) -> Workload:
    """A training step: forward, losses, backward, AdamW."""
    model, text, images = _model(sizes, training=True)
    images = np.random.default_rng(1).integers(0, 256, images.shape, np.uint8)
    trainer = Trainer(model, text, (), Config(model=sizes.model, precision=sizes.precision))
    set_training(model, True)
    labels = np.random.default_rng(2).integers(0, sizes.classes, (sizes.batch, sizes.image, sizes.image), np.int16)
    reports: list[Callable[[], StepReport]] = []

    def run() -> None:  # as in a run, the GPU computes a step while the next one is prepared
        reports.append(trainer.update(*trainer.gradients(images, labels), 0))
        if len(reports) > 1 and (report := reports.pop(0)()).problem and not report.overflow:
            raise UserError(f"a training step on random images was left out: {report.problem}")

    return run, operations(sizes, training=True)


def attention_inputs(sizes: Sizes) -> tuple[list[jt.Var], Callable[[], jt.Var]]:
    """Tokens, prompts and a gradient of the output, and what computes region attention of the first two."""
    set_precision(nn.Module(), sizes.precision)
    model, side = sizes.model, sizes.image // sizes.model.patch_size
    generator, dtype = np.random.default_rng(0), COMPUTE_TYPES[sizes.precision]
    tokens, width = 1 + sizes.patches + model.region_grid**2, model.width
    inputs = [
        cast(jt.array(generator.standard_normal((sizes.batch, *shape), dtype=np.float32)), dtype)
        for shape in ((tokens, 3 * width), (model.prompts, 3 * width), (tokens, width))
    ]
    return inputs, lambda: region_attention(*inputs[:2], model.heads, 1, (side, side), (model.region_grid,) * 2)


def attention_gradients(inputs: list[jt.Var], attend: Callable[[], jt.Var]) -> list[jt.Var]:
    """Those of tokens and prompts, from what `attention_inputs` returns."""
    return jt.grad((widen(attend()) * widen(inputs[2])).sum(), inputs[:2])


def attention(sizes: Sizes) -> Workload:
    """Region attention of one layer, forward and backward."""
    work, made = sizes.batch * attention_operations(sizes), attention_inputs(sizes)
    return lambda: jt.sync(attention_gradients(*made), device_sync=True), ATTENTION_STEP * work


def evaluate(sizes: Sizes) -> Workload:
    """One image of 4:3 through two sliding windows to labels at its size."""
    model, text, _ = _model(sizes)
    image = np.random.default_rng(1).standard_normal((3, sizes.image, sizes.image * 4 // 3), dtype=np.float32)
    crop, stride = (sizes.image,) * 2, (sizes.image * 5 // 6,) * 2
    config = TestConfig(crop_size=crop, stride=stride, window_batch=sizes.batch)
    text, seen, work = jt.array(text), range(sizes.classes // 2), 2 * operations(replace(sizes, batch=1), False)
    return lambda: ImageScores(model, image, text, seen, 0.1, config).labels(), work


def startup(sizes: Sizes) -> Workload:
    """A new process up to its first operator; kernels of earlier runs are on disk."""
    code = "from jseg.runtime.start import start; start('cpu'); import jittor as jt; (jt.ones((2, 2)) * 2).sync()"
    return partial(subprocess.run, [sys.executable, "-c", code], check=True), 0.0


TASKS = {task.__name__: task for task in (forward, train, attention, evaluate, startup)}


def chosen_sizes(task: str, size: str, batch: int, precision: str = "fp32") -> Sizes:
    """One of `SIZES` with the seen classes alone in training."""
    classes = SEEN[size] if task == "train" else SIZES[size].classes
    return replace(SIZES[size], classes=classes, batch=batch, precision=precision)


def measure(run: Callable[[], object], repeats: int, warm_up: int = 2) -> dict[str, float]:
    """Seconds of `run`: the first, which compiles, then of `repeats` after the warm-up; GiB taken by Jittor or RAM."""
    seconds = []
    for _ in range(warm_up + repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    jt.sync_all(True)  # a process that ends while a GPU computes can crash
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = (jt.get_mem_info().total_cuda_used if jt.flags.use_cuda else resident) / 2**30
    timed, first = seconds[warm_up:], seconds[0]
    return {
        "seconds": statistics.median(timed), "min": min(timed), "max": max(timed), "first": first, "peak_gib": peak,
    }  # fmt: skip


def product_rate(precision: str) -> float:
    """Floating-point operations a second of a large matrix product, the best of five; the floor is counted with it."""
    size = 8192 if jt.flags.use_cuda else 1536
    x = cast(jt.randn(size, size), COMPUTE_TYPES[precision])
    return 2.0 * size**3 / measure(lambda: linear(x, x).sync(True), 5)["min"]


def make_result(settings: dict[str, Any], work: float, timing: dict[str, float], rate: float) -> dict[str, Any]:
    """What is printed as JSON; `rate` is that of a large matrix product in operations a second."""
    floor = work / rate if rate else 0.0
    values = {
        **settings, **timing, "operations": work, "product_gflops": rate / 1e9, "floor_seconds": floor,
        "achieved": floor / timing["seconds"], "cpu": platform.processor() or platform.machine(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M"),
    }  # fmt: skip
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in values.items()}


def as_text(values: dict[str, Any]) -> str:
    """One or two lines for people."""
    lines = (
        "{task} {size}, batch {batch}, {device}, {threads} threads: {seconds:.4f} s ({min:.4f} to {max:.4f}, first "
        "{first:.2f}), {peak_gib:.2f} GiB"
    )
    if values["operations"]:
        lines += "\nlarge products: {product_gflops:.0f} GFLOP/s; floor {floor_seconds:.4f} s, {achieved:.0%} reached"
    return lines.format(**values)
