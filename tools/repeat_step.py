"""Repeats a training step whose loss or gradient was not finite, from the file that the run left.

    python tools/repeat_step.py work_dirs/my_run/bad_step_0000120.safetensors
    python tools/repeat_step.py bad_step_0000120.safetensors train.micro_batch=1

The file holds weights, moments, batch, seed and configuration. A step of several ranks is repeated with its dropout by
as many: `mpirun -np 2 python tools/repeat_step.py …`. Exit codes: 0 the step is fine now; 1 it is not.
"""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, add_device_options, run

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from jseg.config import apply_overrides, check, from_dict
from jseg.data.class_names import classes_of
from jseg.data.label_maps import training_classes
from jseg.engine import checkpoint
from jseg.engine.load import check_shares
from jseg.engine.optimizer import loss_scale_of
from jseg.engine.ranks import Ranks, claim_gpu, joined
from jseg.errors import UserError
from jseg.weights.reader import WeightFile


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line -> options."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, help="bad_step_*.safetensors of a run")
    add_device_options(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes of the run's config")
    return parser.parse_intermixed_args(arguments)


def read_step(path: Path) -> tuple[WeightFile, dict[str, Any], np.ndarray, np.ndarray]:
    """The file, what it records of the step, its pictures and its labels.

    Raises:
        UserError: damaged, or no such file.
    """
    file = checkpoint.read_checkpoint(path)
    record = file.meta.get("bad_step")
    images, labels = (file.tensors.get(record.BATCH_PREFIX + name) for name in ("images", "labels"))
    if not isinstance(record, dict) or images is None or labels is None or record.FEATURES_NAME not in file.tensors:
        raise UserError(f"{path} holds no step to repeat: pass a bad_step_*.safetensors of a work folder")
    return file, record, images, labels


def main(arguments: list[str] | None = None) -> int:
    """Repeats the step; see the module docstring."""
    options = parse_arguments(arguments)
    with joined() as ranks:
        return repeat(options, ranks)


def repeat(options: argparse.Namespace, ranks: Ranks) -> int:
    """What `main` does, on the ranks of this launch."""
    file, record, images, labels = read_step(options.file)
    config = from_dict(file.meta.get("config"), options.file)
    apply_overrides(config, options.overrides)
    check(config)
    check_shares(config, ranks.world)
    classes, iteration = classes_of(config.data), checkpoint.iteration_of(file)
    from jseg.runtime.start import start

    claim_gpu(ranks, options.device)
    device = start(options.device)
    from jseg.engine.seeds import seed_iteration
    from jseg.engine.trainer import Trainer
    from jseg.model.clip_rc import build_clip_rc, set_training
    from jseg.model.released_weights import load_released
    from jseg.ops.compiled import choose

    choose(config.kernels)
    model = build_clip_rc(config.model)
    load_released(model, record.model_tensors(file, averaged=False))
    text = file.tensors[record.FEATURES_NAME][list(training_classes(classes, config.data.setting))]
    trainer = Trainer(model, text, classes.unseen if config.data.setting == "transductive" else (), config, ranks)
    trainer.optimizer.load_state(checkpoint.moments_of(file))
    if trainer.loss_scale is not None:
        trainer.loss_scale = loss_scale_of(file.meta, file.path)
    set_training(model, True)
    print(f"iteration {iteration + 1} on {device}, pictures {', '.join(map(str, record.get('names', [])))}")
    print(f"pictures: {int((~np.isfinite(images)).sum())} values that are not finite; labels: {np.unique(labels)}")
    print(f"in the run: {record.get('problem')}")
    if (then := record.get("ranks", 1)) != ranks.world:
        print(f"warning: the run had {then} ranks, which drew another dropout: mpirun -np {then} repeats it")
    seed_iteration(config.train.seed, iteration, ranks.rank)
    share = slice(ranks.rank, None, ranks.world)
    report = trainer.step(images[share], labels[share], iteration)
    print(f"now: {report.problem or 'fine'}; {report.losses}, gradient norm {report.gradient_norm}")
    return int(bool(report.problem))


if __name__ == "__main__":
    run(main)
