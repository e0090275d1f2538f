"""Trains, evaluates and draws: one command for every task.

    python tools/run_net.py --config-file shapes_demo --task train
    python tools/run_net.py --config-file voc12_inductive --work-dir D --task train data.root=/data/VOC2012
    python tools/run_net.py --config-file shapes_demo --task val --weights work_dirs/shapes_demo/weights.safetensors
    python tools/run_net.py --config-file shapes_demo --task test --resume

Files in the work folder, by default work_dirs/<name of the config>:

    train   log.jsonl, config.json, record.json, checkpoint_<iteration>.safetensors; at the end weights.safetensors;
            where the config asks for evaluation, metrics.json, best.safetensors and best_metrics.json
    val     metrics.json, confusion.png, confusion.csv; images.csv (a figure of each image) and best_and_worst.png; with
            --save-dir D also what test draws, into D
    test    images/: a label map and an overlay of each image, and sheet.png

key=value at the end changes single keys of the config: train.iterations=100. Config files, weights and options of JSeg
and CLIP-RC are taken, too (docs/from_jseg.md). Processes that `mpirun -np 4` or srun starts share the work. Exit codes:
0 fine; 1 a metric is not what the config expects; 2 a mistake of the user, in one line.
"""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, add_device_options, print_without_fail, program, run

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from jseg.clip.class_embeddings import class_embeddings
from jseg.config import read_config
from jseg.engine.checkpoint import WEIGHTS_NAME
from jseg.engine.load import NEWEST, Run, load_model
from jseg.engine.log import LOG_NAME, say
from jseg.errors import UserError
from jseg.files import shipped
from jseg.metrics import about
from jseg.released_configs import CONVERT, SECTIONS, TABLE
from jseg.runtime.ranks import claim_gpu, join_ranks
from jseg.runtime.start import start


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line -> options."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--config-file", required=True, help="name of one of configs/, a file, or config.json of a run")
    parser.add_argument("--task", choices=("train", "val", "test"), help="val measures, test draws; default: train")
    parser.add_argument("--work-dir", type=Path, help="folder for all files; default: work_dirs/<name of the config>")
    parser.add_argument(
        "--resume", "--resume-from", nargs="?", const=NEWEST, metavar="PATH",
        help="go on training from this checkpoint, or without PATH from the newest in the work folder; "
        "val, test: its weights",
    )  # fmt: skip
    parser.add_argument("--weights", "--load-from", type=Path, help="of a jseg run, or the authors' .pth or .pkl")
    parser.add_argument("--other-classes", action="store_true", help="take weights that were trained on other classes")
    text = "folder for drawn images; default: test: <work-dir>/images, val: none are drawn"
    parser.add_argument("--save-dir", "--show-dir", type=Path, help=text)
    parser.add_argument("--overwrite", action="store_true", help="also replace files that jseg did not write")
    parser.add_argument("--efficient-val", "--efficient_val", action="store_true", help="accepted; always on")
    same = "--load-from, --resume-from, --show-dir are --weights, --resume, --save-dir"
    released = parser.add_argument_group(f"options of the PyTorch release ({same})")
    released.add_argument("--cfg-options", "--options", nargs="+", default=[], metavar="key=value", help="overrides")
    released.add_argument("--seed", type=int, help="train.seed")
    released.add_argument("--eval", nargs="+", metavar="mIoU", help="--task val")
    released.add_argument("--aug-test", action="store_true", help="test.flip=True and six test.scales")
    released.add_argument("--gpus", type=int, default=1, help="1; more: mpirun -np N before the command")
    add_device_options(parser)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes of the config: train.seed=1")
    options = parser.parse_intermixed_args(arguments)
    adopt_released_options(options)
    if options.resume and "=" in options.resume and not Path(options.resume).exists():
        options.overrides.append(options.resume)  # `--resume train.seed=1`: an override after the bare flag
        options.resume = NEWEST
    if options.resume is not None and options.weights is not None:
        raise UserError("--resume and --weights exclude each other: the first resumes a run, the second starts one")
    if options.work_dir is None:
        options.work_dir = Path("work_dirs") / Path(options.config_file).stem
    return options


def adopt_released_options(options: argparse.Namespace) -> None:
    """Turns the options of the PyTorch release into ours, in place; UserError where they would mean something else."""
    if options.gpus != 1:
        raise UserError(f"--gpus {options.gpus}: put `mpirun -np {options.gpus}` before the command, a process a GPU")
    metrics = [name for name in options.eval or () if "=" not in name]  # an override may stand behind
    if metrics not in ([], ["mIoU"]):
        raise UserError(f"--eval {' '.join(metrics)}: --task val measures pAcc, mIoU and hIoU, nothing else")
    default = "val" if options.eval is not None else "test" if options.save_dir or options.aug_test else "train"
    options.task = options.task or default
    given = [our_override(text) for text in (*options.cfg_options, *(options.eval or ())) if text not in metrics]
    given += [] if options.seed is None else [f"train.seed={options.seed}"]
    given += ["test.scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75)", "test.flip=True"] * options.aug_test
    options.overrides[:0] = given


def our_override(text: str) -> str:
    """`runner.max_iters=9` -> `train.iterations=9`: a key of the releases whose value ours takes as it is."""
    key, equals, value = text.partition("=")
    section, dot, rest = key.partition(".")
    name = TABLE.get(f"{SECTIONS.get(section, section)}{dot}{rest}", "<")
    return text if name.startswith("<") or key.rpartition(".")[2] in CONVERT else f"{name}{equals}{value}"


def training_command(options: argparse.Namespace, world: int, resumes: bool) -> str:
    """The command that resumes the training run of `options`, or starts it again."""
    parts = ["mpirun", "-np", str(world)] if world > 1 else []
    parts += [*program(), "--config-file", options.config_file, "--work-dir", str(options.work_dir)]
    parts += ["--device", options.device] if options.device != "auto" else []
    parts += ["--other-classes"] if options.other_classes else []
    parts += ["--overwrite"] if options.overwrite and not resumes else []
    parts += ["--weights", str(options.weights)] if options.weights is not None and not resumes else []
    return shlex.join([*parts, *options.overrides, *(["--resume"] if resumes else [])])


def next_commands(options: argparse.Namespace, weights: Path, names: Sequence[str], image: str) -> str:
    """The commands that evaluate the weights of a run, draw and segment `image` with them, and plot its curves."""
    python, lines = program()[0], []
    segment = [image, "--classes", ",".join(names[:3]), "--weights", str(weights)]
    run = ["--config-file", options.config_file, "--work-dir", str(options.work_dir), "--weights", str(weights)]
    run += options.overrides
    for what, word, tool, more in (
        ("evaluate", "val", "run_net", run), ("draw", "test", "run_net", run),
        ("segment", "segment", "segment", segment), ("plot", "plot", "plot_log", [str(options.work_dir)]),
    ):  # fmt: skip
        command = [python, str(Path(sys.argv[0]).with_name(f"{tool}.py")), *["--task", word] * (tool == "run_net")]
        lines.append(f"{what + ':':10}{shlex.join([*(['jseg', word] if python == 'jseg' else command), *more])}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Runs one task; see the module docstring."""
    options = parse_arguments(arguments)
    if options.task == "train":
        print_without_fail()
    with join_ranks() as ranks:
        config = read_config(options.config_file, options.overrides)
        task = Run(
            options.task, config, ranks, options.work_dir, save_dir=options.save_dir, weights=options.weights,
            resume=options.resume, other_classes=options.other_classes, overwrite=options.overwrite,
            command=lambda resumes: training_command(options, ranks.world, resumes),
        )  # fmt: skip
        task.open()
        claim_gpu(ranks, options.device)
        task.device = start(options.device)
        together = f", {ranks.world} processes" if ranks.world > 1 else ""
        say(f"task {task.task}, device {task.device}{together}, work folder {task.work_dir}")
        if task.task == "train":
            from jseg.engine.train import train

            classes, setting = task.dataset.class_list, config.data.setting
            split = f"{len(classes.names)} classes, {len(classes.unseen)} of them unseen"
            say(f"data: {classes.title}, {setting}: {len(task.dataset)} images to train on, {split}")
            say(f"log: {task.work_dir / LOG_NAME}")
            if train(task):
                scenes = config.data.dataset == "shapes"
                image = os.path.relpath(shipped("examples/scene_1.jpg")) if scenes else "photo.jpg"
                say(next_commands(options, task.work_dir / WEIGHTS_NAME, classes.names, image))
            return 0
        from jseg.engine.evaluate import evaluate

        text = class_embeddings(config, task.classes, task.file, task.clip, task.other_classes).matrix
        model, notes = load_model(config, task.file, task.clip)
        say("\n".join(notes))
        val, weights = task.task == "val", str(task.file.path) if task.file else config.model.init
        metrics = evaluate(
            model, task.dataset, text, config, task.work_dir if val else None, task.save_dir, ranks, labels_needed=val,
            overwrite=task.overwrite, run=about(config, weights, options.config_file, task.device),
        )  # fmt: skip
    missed = 0
    for name, (value, tolerance) in config.expected.items() if val else ():
        found = metrics[name]
        if found is None or not abs(found - value) <= tolerance:  # NaN is a miss
            missed += 1
            shown = "-" if found is None else f"{found:.2f}"
            print(f"check failed: {name} is {shown}, expected {value} within {tolerance}")
    return 1 if missed else 0


if __name__ == "__main__":
    run(main)
