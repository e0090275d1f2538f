"""`python -m tests.standin_gpu.cost SETTING:PRECISION:SIZE…`: what training steps ask of the host, and of the GPU.

SIZE is that of the benchmark (`voc`, `coco`), or `tiny` with the layers of the encoder, the decoder and the recovery
decoder (`tiny:3:2:2`), and the images of a micro-batch if there are several (`tiny:2:2:2:1`). On the stand-in GPU
kernels do nothing, so the time of a step is that of the host. One line of JSON for each: launches and products; waits
of the host for all that was launched; operators that run on the CPU; `gigabytes` read and written by what is neither a
product nor attention, for a batch of 16, from those for 2 and 4; `milliseconds` of processor time, the median of 9
steps.
"""

import ctypes
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

BATCH = 2
OTHERS = "cublas|relay|(joint|cross|two_way)_(forward|backward)"  # products and attention


def steps_of(batch: int, setting: str, precision: str, size: str, *layers: str) -> Callable[[int], object]:
    """A function that runs step i of a training."""
    import numpy as np

    from jseg import benchmark
    from jseg.config import Config
    from jseg.engine.train import Trainer
    from jseg.model.clip_rc import set_training
    from tests.engine.tiny_training import tiny_batch, tiny_trainer
    from tests.standin_gpu.hot_path import UNSEEN, small_config

    if size == "tiny":
        config, unseen = small_config(), UNSEEN[setting]
        config.precision, config.train.iterations, model = precision, 100, config.model
        model.layers, model.decoder_layers, model.recovery_layers, *micro_batch = map(int, layers)
        config.train.micro_batch = sum(micro_batch)
        trainer = tiny_trainer(config, unseen, dropout=True)
        images, labels = tiny_batch(seed=5, size=batch, lowest=-1 if unseen else 0)
        images, labels = images.astype(np.uint8), labels.astype(np.int16)
    else:
        sizes = replace(benchmark.SIZES[size], batch=batch, precision=precision)
        seen = benchmark.SEEN[size]
        unseen = tuple(range(seen, sizes.classes)) if setting == "transductive" else ()
        sizes = replace(sizes, classes=seen if setting == "inductive" else sizes.classes)
        model, text, images = benchmark._model(sizes, training=True)
        trainer = Trainer(model, text, unseen, Config(model=sizes.model, precision=precision))
        set_training(model, True)
        labels = np.random.default_rng(2).integers(-1 if unseen else 0, seen, (batch, 512, 512), np.int16)
        images = images.astype(np.uint8)
    sides = np.int32([images.shape[2:]] * len(images))
    return lambda i: trainer.update(*trainer.gradients(images, labels, sides), i)


def operators(step: Callable[[int], object]) -> tuple[list[str], float]:
    """Those of a step that run on the CPU, and the bytes that all but products and attention read and write."""
    import jittor as jt

    step(12)
    with jt.profile_scope(warmup=0, rerun=0) as report:
        step(13)
        jt.sync_all(True)
    on_cpu, moved = [], 0.0
    for name, _, _, nanoseconds, *_, in_a_second, _ in report[1:]:
        on_cpu += [name] * ("JIT_cpu" in name)
        if not re.search(OTHERS, name):
            moved += float(in_a_second) * float(nanoseconds) / 1e9
    return on_cpu, moved


def measure(part: str) -> dict:
    """The costs of a step, and its part."""
    runtime, products = ctypes.CDLL("libcudart.so.13"), ctypes.CDLL("libcublas.so.13")
    counters = {
        name: ctypes.c_long.in_dll(library, f"jseg_{name}")
        for library, names in ((runtime, ("launches", "waits", "copies")), (products, ("products",)))
        for name in names
    }
    step, seconds = steps_of(BATCH, *part.split(":")), []
    for i in range(3 + 9):
        before, start = {name: counter.value for name, counter in counters.items()}, time.process_time()
        step(i)
        seconds.append(time.process_time() - start)
        costs = {name: counter.value - before[name] for name, counter in counters.items()}
    on_cpu, moved = operators(step)
    more = operators(steps_of(2 * BATCH, *part.split(":")))[1]
    at_16 = moved + (16 / BATCH - 1) * (more - moved)
    costs |= {"on_cpu": on_cpu, "gigabytes": round(at_16 / 1e9, 2)}
    return {"part": part, **costs, "milliseconds": round(1e3 * statistics.median(seconds[3:]), 1)}


if __name__ == "__main__":
    from tests.standin_gpu.run import STARTED, start_on_standin

    if os.environ.get(STARTED):
        start_on_standin()
        for part in sys.argv[1:]:
            print(json.dumps(measure(part)), flush=True)
    else:
        from tests.standin_gpu.build import find_nvcc, standin_gpu

        environment = {**os.environ, **standin_gpu(find_nvcc()), STARTED: "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.standin_gpu.cost", *sys.argv[1:]]
        sys.exit(subprocess.run(command, env=environment).returncode)
