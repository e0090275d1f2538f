"""Times jseg and says how far it is from what the arithmetic allows.

    python tools/benchmark.py forward --size voc
    python tools/benchmark.py train --size coco --json
    python tools/benchmark.py forward --compare "python peer.py"

`--compare` runs the other command in turn with ours (A B A B …), each in a process of its own; it has to print one line
of JSON with `seconds`, and may add `peak_gib`.
"""

from jseg.runtime.command_line import ArgumentParser, add_device_options, run

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from jseg.config import PRECISIONS
from jseg.errors import UserError
from jseg.runtime.start import start


def compare(ours: list[str], peer: str, pairs: int, show: Callable[[str], None]) -> dict[str, Any]:
    """Runs two commands in turn (A B A B …) and shows how many times faster ours is, pair by pair.

    The last line of their output is JSON with `seconds`; UserError when it is not.
    """
    ratios, found = [], []
    for number in range(1, pairs + 1):
        for command in (ours, peer):
            finished = subprocess.run(command, shell=command is peer, capture_output=True, text=True)
            try:
                values = json.loads(finished.stdout.strip().splitlines()[-1])
                found.append(values | {"seconds": float(values["seconds"])})
            except (LookupError, ValueError, TypeError) as error:
                reason = f"exit code {finished.returncode}: {finished.stderr.strip()[-200:]}"
                raise UserError(f"{command}: expected a last line of JSON with `seconds` ({reason})") from error
        a, b = found[-2:]
        ratios.append(round(b["seconds"] / a["seconds"], 4))
        memory = f"; {a.get('peak_gib', 0):.2f} and {b['peak_gib']:.2f} GiB" if "peak_gib" in b else ""
        show(f"pair {number}: {a['seconds']:.4f} s, peer {b['seconds']:.4f} s, {ratios[-1]:.3f} times as fast{memory}")
    show(f"median: {statistics.median(ratios):.3f} times as fast as the peer")
    return {"ratio": statistics.median(ratios), "ratios": ratios, "ours": a, "peer": b}


def main() -> int:
    """Runs one task."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("task", choices=("forward", "train", "attention", "evaluate", "startup"))
    parser.add_argument("--size", choices=("voc", "coco", "shapes"), default="voc", help="data set (default: voc)")
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
    if args.compare:
        ours = [sys.executable, __file__, args.task, "--json", "--device", args.device]
        for name in ("size", "batch", "repeats", "precision"):
            ours += [f"--{name}", str(getattr(args, name))]
        silent = args.json
        summary = compare(ours, args.compare, args.pairs, lambda line: None if silent else print(line, flush=True))
        if args.json:
            print(json.dumps(summary))
        return 0
    device = start(args.device)
    from jseg.benchmark import TASKS, as_text, chosen_sizes, make_result, measure, product_rate
    from jseg.ops.compiled import compiled

    sizes = chosen_sizes(args.task, args.size, args.batch, args.precision)
    run_once, work = TASKS[args.task](sizes)
    timing = measure(run_once, args.repeats)
    threads = os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))
    kernels = "compiled" if compiled(cuda=True) else "plain"
    settings = {"task": args.task, "size": args.size, "batch": args.batch, "classes": sizes.classes, "device": device,
                "precision": args.precision, "threads": threads, "kernels": kernels}  # fmt: skip
    rate = product_rate(args.precision) if work else 0.0
    values = make_result(settings, work, timing, rate)
    print(json.dumps(values) if args.json else as_text(values))
    return 0


if __name__ == "__main__":
    run(main)
