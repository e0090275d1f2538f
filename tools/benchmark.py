"""Times jseg and says how far it is from what the arithmetic allows.

    python tools/benchmark.py forward --size voc
    python tools/benchmark.py train --size coco --json
    python tools/benchmark.py forward --compare "python peer.py"

`--compare` runs the other command in turn with ours (A B A B …), each in a process of its own; it has to print one line
of JSON with `seconds`, and may add `peak_gib`. Exit code 2: a user's mistake.
"""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, add_device_options, run

import json
import os
import sys

from jseg.benchmark import SIZES, TASKS, as_text, chosen_sizes, compare, make_result, measure, prepare, product_rate
from jseg.config import PRECISIONS
from jseg.errors import UserError
from jseg.runtime.start import start


def main() -> int:
    """Runs one task."""
    parser = ArgumentParser(prog="benchmark.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--size", choices=tuple(SIZES), default="voc", help="sizes of which data set (default: voc)")
    parser.add_argument("--batch", type=int, default=1, help="images at once (default: 1)")
    parser.add_argument("--classes", type=int, help="classes (default: of the data set; in training the seen ones)")
    parser.add_argument("--image", type=int, help="pixels a side (default: of the data set)")
    parser.add_argument("--prompts", type=int, help="prompts of a layer (default: of the data set)")
    parser.add_argument("--warm-up", type=int, default=2, help="runs before the timed ones (default: 2)")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs (default: 5)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="default: fp32")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--compare", metavar="COMMAND", help="another program to run in turn with this one")
    parser.add_argument("--pairs", type=int, default=3, help="how many times both run (default: 3)")
    add_device_options(parser)
    args = parser.parse_args()
    for name in ("batch", "repeats", "pairs", "classes", "image", "prompts"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: must be at least 1")
    ours = [sys.executable, __file__, args.task, "--json", "--device", args.device]
    for name in ("size", "batch", "repeats", "classes", "image", "prompts", "precision", "warm_up"):
        if getattr(args, name) is not None:
            ours += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    if args.warm_up < 0:
        raise UserError(f"--warm-up {args.warm_up}: must be at least 0")
    if args.compare:
        silent = args.json
        summary = compare(ours, args.compare, args.pairs, lambda line: None if silent else print(line, flush=True))
        if args.json:
            print(json.dumps(summary))
        return 0
    device = start(args.device)
    from jseg.ops.compiled import compiled

    sizes = chosen_sizes(args.task, args.size, args.batch, args.classes, args.precision, args.image, args.prompts)
    workload = prepare(args.task, sizes)
    timing = measure(workload.run, args.repeats, args.warm_up)
    settings = {"task": args.task, "size": args.size, "batch": args.batch, "classes": sizes.classes}
    threads = os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))
    names = {True: "compiled", False: "plain"}
    kernels = {"attention": names[compiled(cuda=True)], "others": names[compiled()]}
    settings |= {"device": device, "precision": args.precision, "threads": threads, "kernels": kernels}
    values = make_result(settings, workload, timing, product_rate(args.precision) if workload.operations else 0.0)
    print(json.dumps(values) if args.json else as_text(values))
    return 0


if __name__ == "__main__":
    run(main)
