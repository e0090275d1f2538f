"""Pre-trains the small CLIP that ships with jseg, on captioned `shapes` scenes.

    python tools/pretrain_clip.py --work-dir work_dirs/pretrain_clip --output pretrained/shapes_clip.safetensors

With `--resume` it goes on where a run was interrupted. Writes the weights (float16, both towers, vocabulary in the
metadata) and, beside them, the byte-pair vocabulary as a file; prints zero-shot accuracy, retrieval and segmentation
without learning. The same seed gives the same weights on the same machine and number of threads. What the shipped file
reaches, and how long it took: pretrained/README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from jseg.engine.log import RunLog, command_line, environment, read_log
from jseg.errors import UserError
from jseg.files import check_writable
from jseg.pretraining.settings import Settings
from jseg.runtime.command_line import ArgumentParser, add_device_options, run

VOCABULARY_NAME = "shapes_vocabulary.txt.gz"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line -> options."""
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work-dir", type=Path, required=True, help="checkpoints and log.jsonl")
    parser.add_argument("--output", type=Path, help="weight file to write at the end")
    parser.add_argument("--seed", type=int, default=0, help="of weights, scenes and captions (default 0)")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw ahead (default 1; 0 = none)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint of --work-dir")
    parser.add_argument(
        "--stop-after", type=int, metavar="N", help="end after N finished steps of the schedule, without shortening it"
    )
    parser.add_argument(
        "--evaluate-every", type=int, default=0, metavar="N", help="also evaluate on the way (default: only at the end)"
    )
    parser.add_argument("--scenes", type=int, default=1000, help="pictures to evaluate on (default 1000)")
    add_device_options(parser)
    return parser.parse_args(arguments)


def check(options: argparse.Namespace, settings: Settings) -> int:
    """Number of steps to stop after.

    Raises:
        UserError: numbers out of range, or an output that cannot be written.
    """
    for name, least in (("seed", 0), ("workers", 0), ("evaluate_every", 0), ("scenes", 10)):
        if getattr(options, name) < least:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: must be at least {least}")
    stop = settings.iterations if options.stop_after is None else options.stop_after
    if not 1 <= stop <= settings.iterations:
        raise UserError(f"--stop-after {stop}: must be 1 to {settings.iterations}")
    if options.output is not None:
        if options.output.suffix != ".safetensors":
            raise UserError(f"--output {options.output}: the name must end in .safetensors")
        check_writable(options.output.resolve().parent)
    check_writable(options.work_dir)
    return stop


def recorded(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What the log tells about how the weights were made: command, environment, settings, losses, hours."""
    start = next(line for line in lines if line["event"] == "start")
    steps = [line for line in lines if line["event"] == "train"]
    first = [0, *(line["iteration"] for line in steps)]
    seconds = sum(line["seconds"] * (line["iteration"] - before) for line, before in zip(steps, first, strict=False))
    return {
        **{key: start[key] for key in ("command", "environment", "settings")},
        "losses": [[line["iteration"], round(line["losses"]["total"], 4)] for line in steps],
        "hours": round(seconds / 3600, 2),
    }


def main() -> int:
    """Runs the tool."""
    options = parse_arguments()
    settings = dataclasses.replace(Settings(), seed=options.seed, workers=options.workers)
    stop = check(options, settings)

    from jseg.runtime.start import start

    device = start(options.device)
    from jseg.clip.tokenizer import write_vocabulary
    from jseg.engine import checkpoint
    from jseg.pretraining.batches import picture_batches
    from jseg.pretraining.evaluation import evaluate
    from jseg.pretraining.loop import Pretraining, train
    from jseg.pretraining.small_clip import export

    pretraining = Pretraining(settings)
    if options.resume:
        file, refused = checkpoint.newest_whole(options.work_dir)
        print("\n".join([*refused, f"going on from {file.path}"]), flush=True)
        pretraining.resume(file)
    elif checkpoint.checkpoints_in(options.work_dir):
        raise UserError(f"{options.work_dir} holds checkpoints: go on with --resume, or choose another --work-dir")
    first = pretraining.iteration
    log = RunLog(options.work_dir, settings.iterations, first)
    log.write("start", first, command=command_line(), environment=environment(device), settings=settings.described())
    batches = picture_batches(settings, pretraining.tokenizer, first)
    try:
        train(
            pretraining, batches, log, options.work_dir, stop,
            lambda: evaluate(pretraining.clip, pretraining.tokenizer, 300), options.evaluate_every,
        )  # fmt: skip
    finally:
        batches.close()
    figures = evaluate(pretraining.clip, pretraining.tokenizer, options.scenes)
    log.write("end", pretraining.iteration, metrics=figures)
    print(json.dumps(figures, indent=2))
    if options.output is not None:
        facts = {"iteration": pretraining.iteration, "seed": settings.seed, "figures": figures}
        export(options.output, pretraining.clip, pretraining.tokenizer, {**facts, **recorded(read_log(log.path))})
        write_vocabulary(options.output.parent / VOCABULARY_NAME, pretraining.tokenizer.merges)
        print(f"wrote {options.output} ({options.output.stat().st_size / 1e6:.2f} MB)")
    return 0


if __name__ == "__main__":
    run(main)
