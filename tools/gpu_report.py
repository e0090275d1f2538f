"""Tries all that needs an NVIDIA GPU and writes what came of it into one table.

    python tools/gpu_report.py [--report FILE] [--only WORDS]      # the command of `make test-gpu`

Each part is a process of its own, so that one that crashes does not stop the others; its output lies beside the report.
Exit code 1 when a part failed.
"""

from __future__ import annotations

from jseg.runtime.command_line import ArgumentParser, run

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from jseg.errors import UserError
from jseg.files import check_writable, write_whole
from jseg.outputs import TEXT_MARK, check_outputs
from jseg.runtime import cuda
from jseg.runtime.prepare import findings, prepare

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / "tools"
PRECISIONS = ("fp32", "bf16", "fp16", "tf32")
WARM_UP = 20  # steps after which the memory must not grow
ALLOWED_GROWTH = 64 * 2**20  # bytes: other programs use the GPU too
MINUTES = 60  # limit of a part; the first one compiles Jittor


def parts(work: Path) -> dict[str, tuple[str, ...]]:
    """Name -> arguments of Python, in the order of how much depends on each part; runs lie below `work`."""
    device = ("--device", "cuda")
    demo = (str(TOOLS / "run_net.py"), "--config-file", str(ROOT / "configs" / "shapes_demo.py"), "--work-dir",
            str(work / "demo"), *device)  # fmt: skip
    golden = ("--golden", str(ROOT / "tests" / "golden"))
    found = {
        "runtime check": ("-m", "jseg.runtime", "--check", *device, *golden),
        "released models": (str(TOOLS / "check_parity.py"), *golden, *device),
        "tests marked gpu": ("-m", "pytest", "-q", "-rs", "-m", "gpu", str(ROOT / "tests")),
        "demo, training": (*demo, "--task", "train"),
        "demo, evaluation": (*demo, "--task", "val", "--resume"),
    }
    for precision in PRECISIONS:
        settings = ("--size", "voc", "--precision", precision, *device)
        for task, batch in (("forward", "1"), ("forward", "16"), ("attention", "16"), ("train", "16")):
            arguments = (str(TOOLS / "benchmark.py"), task, "--batch", batch, *settings)
            found[f"{task}, VOC, batch {batch}, {precision}"] = arguments
        found[f"200 training steps, memory, {precision}"] = (__file__, "--steps", "200", "--precision", precision)
    return found


def try_part(arguments: tuple[str, ...], log: Path) -> tuple[str, float, str]:
    """Runs Python with its output in `log`; returns "ok" or "FAILED (…)", the seconds, and the last line of output."""
    begin = time.perf_counter()
    try:
        with log.open("wb") as output:
            done = subprocess.run([sys.executable, *arguments], stdout=output, stderr=subprocess.STDOUT, cwd=ROOT,
                                  env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60 * MINUTES)  # fmt: skip
        state = "ok" if done.returncode == 0 else f"FAILED ({done.returncode})"
    except subprocess.TimeoutExpired:
        state = f"FAILED (over {MINUTES} minutes)"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return state, time.perf_counter() - begin, next((line.strip() for line in lines[::-1] if line.strip()), "")


def long_run(steps: int, precision: str) -> int:
    """Full-size training steps on one batch of 16; the GPU's memory must not grow after the first ones."""
    from jseg.runtime.start import start

    start("cuda")
    from jseg.benchmark import TASKS, chosen_sizes

    train_step, _ = TASKS["train"](chosen_sizes("train", "voc", 16, precision=precision))
    used, begin = {}, 0.0
    for step in range(1, steps + 1):
        train_step()
        if step % WARM_UP == 0 or step == steps:
            used[step] = cuda.used_memory()
        begin = begin or time.perf_counter()  # after the first step, which compiles
    seconds = (time.perf_counter() - begin) / max(steps - 1, 1)
    growth = max(used.values()) - used[min(used)]
    gib = {step: round(value / 2**30, 3) for step, value in used.items()}
    print(json.dumps({"seconds per step": round(seconds, 4), "used GiB after step": gib, "growth": growth}))
    return int(growth > ALLOWED_GROWTH)


def main() -> int:
    """Runs all parts; see the module docstring."""
    parser = ArgumentParser(__doc__, prog="gpu_report.py")
    parser.add_argument("--report", type=Path, default=Path("work_dirs/gpu/report.md"), help="file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace files that jseg did not write")
    parser.add_argument("--only", default="", metavar="WORDS", help="only parts whose name holds this")
    parser.add_argument("--steps", type=int, help="only the long run, of so many steps, in this process")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the long run (default: fp32)")
    args = parser.parse_args()
    if not prepare().toolkit:
        raise UserError(f"no GPU to try: {prepare().cuda_note}")
    if args.steps is not None:
        return long_run(args.steps, args.precision)
    folder = check_writable(args.report.absolute().parent)
    chosen = {name: arguments for name, arguments in parts(folder).items() if args.only in name}
    check_outputs([args.report], folder=folder, overwrite=args.overwrite)
    if not chosen:
        raise UserError(f"--only {args.only!r}: no part has such a name")
    found = {finding.name: finding.found for finding in findings(prepare())}
    lines = ["; ".join([found["GPU"], f"driver {found['NVIDIA driver']}", found["CUDA toolkit"], found["Python"],
                        time.strftime("%Y-%m-%d")]), "",
             "| what | state | seconds | last line |", "|---|---|---|---|"]  # fmt: skip
    failed = False
    for number, (name, arguments) in enumerate(chosen.items()):
        state, seconds, last = try_part(arguments, folder / f"{number:02}_{name.replace(' ', '_')}.log")
        failed |= state != "ok"
        lines.append(f"| {name} | {state} | {seconds:.0f} | {last.replace('|', '/')} |")
        print(f"{state:12} {seconds:7.0f} s  {name}: {last}", flush=True)
        # after each part: a crash of the machine loses nothing
        write_whole(args.report, (TEXT_MARK + "\n".join(lines) + "\n").encode())
    print(f"report: {args.report}")
    return int(failed)


if __name__ == "__main__":
    run(main)
