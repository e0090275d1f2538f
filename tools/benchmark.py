"""Times jseg and says how far it is from what the arithmetic allows.

    python tools/benchmark.py forward --size voc
    python tools/benchmark.py train --size coco --json
    python tools/benchmark.py forward --compare "python peer.py"

`--compare` runs the other command in turn with ours (A B A B …), each in a process of its own; it has to print one line
of JSON with `seconds`, and may add `peak_gib`.
"""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, add_device_options, run

import json
import os
import sys

from jseg.config import PRECISIONS
from jseg.runtime.start import start


def main() -> int:
    """Runs one task."""
    parser = ArgumentParser(__doc__, prog="benchmark.py")
    parser.add_argument("task", choices=("forward", "train", "attention", "evaluate", "startup"))
    parser.add_argument(
        "--size", choices=("voc", "coco", "shapes"), default="voc", help="sizes of which data set (default: voc)"
    )
    parser.add_argument("--batch", type=int, default=1, help="images at once (default: 1)")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs (default: 5)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default: fp32")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--compare", metavar="COMMAND", help="another program to run in turn with this one")
    parser.add_argument("--pairs", type=int, default=3, help="how many times both run (default: 3)")
    add_device_options(parser)
    args = parser.parse_args()
    if min(args.batch, args.repeats, args.pairs) < 1:
        parser.error("--batch, --repeats and --pairs must be at least 1")
    device = start("cpu" if args.compare else args.device)  # before all that imports Jittor
    from jseg.benchmark import TASKS, as_text, chosen_sizes, compare, make_result, measure, product_rate
    from jseg.ops.compiled import compiled

    if args.compare:
        ours = [sys.executable, __file__, args.task, "--json", "--device", args.device]
        for name in ("size", "batch", "repeats", "precision"):
            ours += [f"--{name}", str(getattr(args, name))]
        silent = args.json
        summary = compare(ours, args.compare, args.pairs, lambda line: None if silent else print(line, flush=True))
        if args.json:
            print(json.dumps(summary))
        return 0
    sizes = chosen_sizes(args.task, args.size, args.batch, args.precision)
    run_once, work = TASKS[args.task](sizes)
    timing = measure(run_once, args.repeats)
    threads = os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))
    names = {True: "compiled", False: "plain"}
    kernels = {"attention": names[compiled(cuda=True)], "others": names[compiled()]}
    settings = {"task": args.task, "size": args.size, "batch": args.batch, "classes": sizes.classes, "device": device,
                "precision": args.precision, "threads": threads, "kernels": kernels}  # fmt: skip
    rate = product_rate(args.precision) if work else 0.0
    values = make_result(settings, work, timing, rate)
    print(json.dumps(values) if args.json else as_text(values))
    return 0


if __name__ == "__main__":
    run(main)
