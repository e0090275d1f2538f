"""Trains, evaluates and draws: one command for every task.

    python tools/run_net.py --config-file configs/shapes_demo.py --task train
    python tools/run_net.py --config-file configs/shapes_demo.py --task val --weights weights.safetensors
    python tools/run_net.py --config-file configs/shapes_demo.py --task test --resume

`key=value` at the end changes single keys of the config: `train.iterations=100`. Processes that `mpirun -np 4` or srun
starts share the work. Exit codes: 0 fine; 1 the expected numbers were missed; 2 a mistake of the user, in one line.
"""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, add_device_options, run

import argparse
import shlex
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from jseg.clip.class_embeddings import class_embeddings
from jseg.clip.weights import ClipWeights
from jseg.config import Config, read_config
from jseg.data.check import quick_check
from jseg.data.class_names import ClassList, classes_of
from jseg.data.dataset import Dataset, open_dataset
from jseg.engine import checkpoint
from jseg.engine import load as recipe
from jseg.engine.load import build_model, clip_of, in_precision, print_if_any
from jseg.engine.ranks import Ranks, claim_gpu, joined
from jseg.engine.work_folder import held
from jseg.errors import UserError
from jseg.files import check_writable
from jseg.weights import record
from jseg.weights.reader import WeightFile

NEWEST = ""  # bare --resume


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line -> options."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config-file", required=True, help="configs/*.py, or the config.json of an earlier run")
    parser.add_argument("--task", choices=("train", "val", "test"), default="train", help="default: train")
    parser.add_argument("--work-dir", type=Path, help="folder of the run (default: work_dirs/<name of the config>)")
    parser.add_argument(
        "--resume", nargs="?", const=NEWEST, metavar="PATH",
        help="train: go on from a checkpoint, without PATH from the newest whole one of the work folder; "
        "val, test: the same as --weights",
    )  # fmt: skip
    parser.add_argument("--weights", type=Path, help="weights only: ours, or a released .pth or .pkl")
    parser.add_argument("--other-classes", action="store_true", help="take weights made for other classes")
    parser.add_argument("--save-dir", type=Path, help="folder for pictures (test; default: <work-dir>/pictures)")
    parser.add_argument("--efficient-val", "--efficient_val", action="store_true", help="accepted; always on")
    add_device_options(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes of the config")
    options = parser.parse_intermixed_args(arguments)
    if options.resume and "=" in options.resume and not Path(options.resume).exists():
        options.overrides.append(options.resume)  # `--resume train.seed=1`: an override after the bare flag
        options.resume = NEWEST
    if options.resume is not None and options.weights is not None:
        raise UserError(
            "--resume and --weights exclude each other: the first goes on with a run, the second starts one"
        )
    if options.work_dir is None:
        options.work_dir = Path("work_dirs") / Path(options.config_file).stem
    return options


def weights_of(options: argparse.Namespace) -> WeightFile | None:
    """The weight file that the command line names; None when it names none.

    Raises:
        UserError: it is missing or not whole; bare --resume without a whole checkpoint.
    """
    if options.resume is None:
        return checkpoint.read_whole(options.weights) if options.weights is not None else None
    if options.resume != NEWEST:
        reader = checkpoint.read_checkpoint if options.task == "train" else checkpoint.read_whole
        return reader(Path(options.resume))
    file, refused = checkpoint.newest_whole(options.work_dir)
    for reason in refused:
        print(f"warning: {reason}")
    print(f"--resume: newest whole checkpoint is {file.path}")
    return file


def refuse_used_work_dir(options: argparse.Namespace) -> None:
    """Never goes on with a run by accident, nor writes over one.

    Raises:
        UserError: the work folder holds checkpoints or weights and the run does not go on from them.
    """
    finished = options.work_dir / checkpoint.WEIGHTS_NAME
    found = [*([finished] if finished.exists() else []), *checkpoint.checkpoints_in(options.work_dir)]
    if found and options.resume is None:
        raise UserError(
            f"{options.work_dir} already holds {found[-1].name}: pass --resume to go on with that run, or another "
            "--work-dir to start a new one"
        )


def prepare(options: argparse.Namespace, config: Config) -> tuple[ClassList, WeightFile | None, ClipWeights | None]:
    """What can be checked before Jittor starts: class list, weight file, CLIP weights, folder of the run."""
    classes = classes_of(config.data)
    if config.test.training_free and (options.task == "train" or options.weights or options.resume is not None):
        raise UserError(
            f"{options.config_file} measures CLIP as it is (test.training_free): nothing is trained and no other "
            "weights than model.init are read; use --task val or test alone"
        )
    file = weights_of(options)
    if file is not None:
        record.model_tensors(file)  # refuses plain CLIP weights
        for warning in checkpoint.check_classes(file, classes, options.other_classes or config.cross_dataset):
            print(f"warning: {warning}")
        check_recipe(options, config, file)
    elif options.task != "train" and not config.test.training_free:
        raise UserError(
            f"--task {options.task} needs weights: pass --weights PATH, or --resume for those of the work folder"
        )
    elif options.task == "train" and config.train.expected_weights:
        raise UserError(f"this run starts from {config.train.expected_weights}: pass it as --weights PATH")
    clip = clip_of(config, file)
    check_writable(options.work_dir)
    return classes, file, clip


def check_recipe(options: argparse.Namespace, config: Config, file: WeightFile) -> None:
    """Checks weights against what the config says of a run: where it starts, with which batch it trains.

    Raises:
        UserError: a training run would start from other weights than its config expects.
    """
    if options.task != "train":
        warnings = [recipe.weights_batch_warning(file, config)]
    else:
        warnings = recipe.check_start(file, config) if options.resume is None else []
    for warning in filter(None, warnings):
        print(f"warning: {warning}")


def start_on(options: argparse.Namespace, config: Config, ranks: Ranks) -> str:
    """Starts Jittor and says where it computes."""
    from jseg.runtime.start import start

    claim_gpu(ranks, options.device)
    device = start(options.device)
    from jseg.ops.compiled import choose

    choose(config.kernels)
    together = f", {ranks.world} processes" if ranks.world > 1 else ""
    print(f"task {options.task}, device {device}{together}, work folder {options.work_dir}", flush=True)
    return device


def open_checked(config: Config, split: str) -> Dataset:
    """The data set of a split, after a look at a sample of its pairs.

    Raises:
        UserError: files are missing or unreadable, or labels are not what the class list needs.
    """
    dataset = open_dataset(config.data, split)
    quick_check(dataset)
    return dataset


def train_task(options: argparse.Namespace, config: Config, ranks: Ranks) -> int:
    """Trains, and leaves `weights.safetensors` in the work folder."""
    if config.cross_dataset:
        raise UserError(
            f"{options.config_file} evaluates weights of another data set (cross_dataset): train with that one's "
            "config, then pass its weights to --task val --weights PATH"
        )
    dataset = open_checked(config, "train")
    val_dataset = open_checked(config, "val") if config.train.eval_every else None
    refuse_used_work_dir(options)
    classes, file, clip = prepare(options, config)
    recipe.check_shares(config, ranks.world)
    with held(options.work_dir) if ranks.first else nullcontext():
        if ranks.first and options.resume is not None:
            checkpoint.clear_later(options.work_dir, file, damaged=options.resume == NEWEST)
        return train_run(options, config, ranks, (dataset, val_dataset), classes, file, clip)


def train_run(
    options: argparse.Namespace,
    config: Config,
    ranks: Ranks,
    datasets: tuple[Dataset, Dataset | None],
    classes: ClassList,
    file: WeightFile | None,
    clip: ClipWeights | None,
) -> int:
    """The part of `train_task` that needs Jittor; `datasets` are for training and for evaluations meanwhile."""
    device = start_on(options, config, ranks)
    print(recipe.batch_line(config, ranks.world))
    print_if_any(ranks.connect_gpus(device))
    if warning := recipe.batch_warning(config.train.batch_size, config):
        print(f"warning: {warning}", flush=True)
    from jseg.engine.training_run import RunStart, train

    text = class_embeddings(config, classes, file, clip, options.other_classes)
    model = build_model(config, file, clip, averaged=options.resume is None)
    run_start = RunStart(
        folder=options.work_dir,
        pictures=options.save_dir,
        device=device,
        weights=file,
        resumes=options.resume is not None,
        resume_command=resume_command(options, ranks.world),
    )
    train(model, text, datasets, config, run_start, ranks)
    return 0


def resume_command(options: argparse.Namespace, world: int) -> str:
    """The command that goes on with the run of `options`."""
    parts = ["mpirun", "-np", str(world)] if world > 1 else []
    name = Path(sys.executable).name
    parts += [name if shutil.which(name) == sys.executable else sys.executable]  # not where .venv is not activated
    parts += [sys.argv[0], "--config-file", options.config_file]
    parts += ["--work-dir", str(options.work_dir)]
    parts += ["--device", options.device] if options.device != "auto" else []
    parts += ["--save-dir", str(options.save_dir)] if options.save_dir is not None else []
    parts += ["--other-classes"] if options.other_classes else []
    return shlex.join([*parts, *options.overrides, "--resume"])


def missed(metrics: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """A line for each metric (in percent) that is not within its tolerance."""
    lines = []
    for name, (value, tolerance) in expected.items():
        found = metrics[name]
        if found is None or abs(found - value) > tolerance:
            shown = "-" if found is None else f"{found:.2f}"
            lines.append(f"{name} is {shown}, expected {value} within {tolerance}")
    return lines


def val_task(options: argparse.Namespace, config: Config, ranks: Ranks) -> int:
    """Evaluates; exit code 1 when the numbers that the config expects are missed."""
    dataset = open_checked(config, "val")
    classes, file, clip = prepare(options, config)
    start_on(options, config, ranks)
    from jseg.engine.evaluate import evaluate

    text = class_embeddings(config, classes, file, clip, options.other_classes)
    model = in_precision(build_model(config, file, clip), config)
    metrics = evaluate(
        model, dataset, text.matrix, dataset.class_list, config, options.work_dir, options.save_dir, ranks
    )
    failures = missed(metrics, config.expected)
    for line in failures:
        print(f"check failed: {line}")
    return 1 if failures else 0


def test_task(options: argparse.Namespace, config: Config, ranks: Ranks) -> int:
    """Writes label PNG and overlay of every picture."""
    dataset = open_dataset(config.data, "test")
    classes, file, clip = prepare(options, config)
    save_dir = check_writable(options.save_dir or options.work_dir / "pictures")
    start_on(options, config, ranks)
    from jseg.engine.evaluate import draw

    text = class_embeddings(config, classes, file, clip, options.other_classes)
    model = in_precision(build_model(config, file, clip), config)
    draw(model, dataset, text.matrix, classes, config, save_dir, ranks)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs one task; see the module docstring."""
    options = parse_arguments(arguments)
    with joined() as ranks:
        config = read_config(options.config_file, options.overrides)
        return {"train": train_task, "val": val_task, "test": test_task}[options.task](options, config, ranks)


if __name__ == "__main__":
    run(main)
