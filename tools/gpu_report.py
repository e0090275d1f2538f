"""Tries all that needs an NVIDIA GPU and writes what came of it into one table.

    python tools/gpu_report.py [--report FILE] [--only WORDS]      # the command of `make test-gpu`
    python tools/gpu_report.py --minutes 9 --compare "python peer.py --batch {batch} --dtype {precision}"

`--minutes` tries the parts that prove most first, each under a time limit of its own, and names those that did not fit;
`--compare` is as in benchmark.py. Each part is a process of its own, so that one that crashes does not stop the others;
its output lies beside the report. Exit code 1 when a part failed.
"""

from jseg.runtime.command_line import ArgumentParser, run

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

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
CALLS = 20  # of attention between two waits for the GPU
HOUR = 3600  # limit of a part where there is time; the first one compiles Jittor
TOLERANCES = {"fp32": 1e-4, "tf32": 5e-3, "fp16": 5e-3, "bf16": 3e-2}  # of attention, on the largest value; fast math
Parts = dict[str, tuple[float, tuple[str, ...]]]  # name -> seconds it may take, arguments of Python


def parts(work: Path, options: argparse.Namespace) -> Parts:
    """All parts in the order of worth, or those of `--minutes`, which their limits share out; runs lie below `work`."""
    golden, device = ("--golden", str(ROOT / "tests" / "golden")), ("--device", options.device)
    sizes = ("--size", options.size, "--batch", str(options.batch), *device)
    demo = (str(TOOLS / "run_net.py"), "--config-file", str(ROOT / "configs" / "shapes_demo.py"), "--work-dir",
            str(work / "demo"), *device)  # fmt: skip
    names = ("fp32",) if options.device == "cpu" else ("bf16", "fp32") if options.minutes else PRECISIONS
    precisions = {name: (*sizes, "--precision", name) for name in names}
    found: Parts = {"runtime check": (200, ("-m", "jseg.runtime", "--check", *device, *golden))}
    for name, settings in precisions.items():
        step = (str(TOOLS / "benchmark.py"), "train", *settings, "--repeats", str(options.repeats), "--json")
        found[f"train, {name}"] = (120, step)
        if options.compare:
            peer = options.compare.replace("{batch}", str(options.batch)).replace("{precision}", name)
            found[f"train, {name}, peer in turn"] = (120, (*step, "--pairs", "1", "--compare", peer))
    for part, limit in (("attention", 60), ("profile", 90)):
        for name, settings in precisions.items():
            found[f"{part}, {name}"] = (limit, (__file__, "--part", part, *settings))
    for beginning in ("forward_eval_", "train_inductive_", "trajectory_") if options.minutes else ("",):
        check = (str(TOOLS / "check_parity.py"), *golden, *device, "--only", beginning)
        found[f"released model {beginning}"] = (120, check)
    for name, settings in list(precisions.items())[: 1 if options.minutes else None]:
        found[f"200 training steps, memory, {name}"] = (120, (__file__, "--part", "steps", *settings))
    found["demo, training"] = (180, (*demo, "--task", "train"))
    found["demo, evaluation"] = (60, (*demo, "--task", "val", "--resume"))
    if options.minutes:
        return {name: (limit * options.minutes / 9, arguments) for name, (limit, arguments) in found.items()}
    for name in precisions:
        for batch in ("1", "16"):
            settings = ("--size", options.size, "--batch", batch, "--precision", name, *device)
            found[f"forward, batch {batch}, {name}"] = (0, (str(TOOLS / "benchmark.py"), "forward", *settings))
    found["tests marked gpu"] = (0, ("-m", "pytest", "-q", "-rs", "-m", "gpu", str(ROOT / "tests")))
    return {name: (HOUR, arguments) for name, (_, arguments) in found.items()}


def try_part(arguments: tuple[str, ...], log: Path, limit: float) -> tuple[str, float, str]:
    """Runs Python with its output in `log`; returns "ok…" or "FAILED (…)", the seconds, and the line that says most.

    A part that has printed its JSON is judged by it: CUDA libraries can abort a process that has done its work.
    """
    begin, code = time.perf_counter(), None
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    log.write_text(TEXT_MARK, encoding="utf-8")
    with log.open("ab") as output:
        part = subprocess.Popen([sys.executable, *arguments], stdout=output, stderr=subprocess.STDOUT, cwd=ROOT,
                                env={**os.environ, "PYTHONPATH": path}, start_new_session=True)  # fmt: skip
        try:
            code = part.wait(limit)
        except subprocess.TimeoutExpired:
            pass
        finally:  # with all that it has started
            if code is None:
                os.killpg(part.pid, signal.SIGKILL)
                part.wait()
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
    found = next((line for line in lines[::-1] if line.startswith('{"')), "")
    state = "ok" if code == 0 else f"FAILED ({code})" if code is not None else f"FAILED (over {limit:.0f} s)"
    if found.endswith("}") and code is not None and code < 0 and json.loads(found).get("ok", True):
        state = f"ok, then signal {-code}"
    return state, time.perf_counter() - begin, found or (lines or [""])[-1]


def measure_steps(options: argparse.Namespace, steps: int = 200) -> dict[str, object]:
    """Training steps on one batch; the GPU's memory must not grow after the first ones."""
    import jittor as jt

    from jseg.benchmark import TASKS, chosen_sizes

    train_step, _ = TASKS["train"](chosen_sizes("train", options.size, options.batch, options.precision))
    used, begin = {}, 0.0
    for step in range(1, steps + 1):
        train_step()
        if step % WARM_UP == 0 or step == steps:
            used[step] = cuda.used_memory()
        begin = begin or time.perf_counter()  # after the first step, which compiles
    jt.sync_all(True)
    seconds = (time.perf_counter() - begin) / max(steps - 1, 1)
    growth = max(used.values()) - used[min(used)]
    gib = {step: round(value / 2**30, 3) for step, value in used.items()}
    return {"seconds": round(seconds, 4), "used GiB after step": gib, "growth": growth, "ok": growth <= ALLOWED_GROWTH}


def exact_attention(
    projected: np.ndarray, prompts: np.ndarray, outer: np.ndarray, heads: int, allowed: np.ndarray
) -> list[np.ndarray]:
    """Attention in float64, and for its gradient `outer` (T, D) those of its inputs (T, 3 D) and (K, 3 D)."""
    tokens, width = outer.shape
    rows = np.concatenate([projected, prompts]).reshape(-1, 3, heads, width // heads).transpose(1, 2, 0, 3)
    (q, k, v), outer = rows, outer.reshape(tokens, heads, -1).transpose(1, 0, 2)
    q, scale = q[:, :tokens], (width // heads) ** -0.5
    weights = np.exp(np.where(allowed, q @ k.transpose(0, 2, 1) * scale, -np.inf))
    weights /= weights.sum(-1, keepdims=True)
    slopes = outer @ v.transpose(0, 2, 1)
    slopes = weights * (slopes - (slopes * weights).sum(-1, keepdims=True)) * scale
    gradients = np.zeros_like(rows)
    gradients[0, :, :tokens], gradients[1:] = (
        slopes @ k,
        (slopes.transpose(0, 2, 1) @ q, weights.transpose(0, 2, 1) @ outer),
    )
    output, gradients = (weights @ v).transpose(1, 0, 2), gradients.transpose(2, 0, 1, 3)
    return [output.reshape(tokens, width), *np.split(gradients.reshape(-1, 3 * width), [tokens])]


def measure_attention(options: argparse.Namespace) -> dict[str, object]:
    """Region attention of one image against float64, and the times of a batch."""
    import jittor as jt

    from jseg.benchmark import (
        ATTENTION_STEP,
        attention_gradients,
        attention_inputs,
        attention_operations,
        chosen_sizes,
        measure,
    )
    from jseg.ops.attention import attention_allowed
    from jseg.ops.half import widen

    sizes = chosen_sizes("attention", options.size, 1, options.precision)
    inputs, attend = attention_inputs(sizes)
    found = [attend(), *attention_gradients(inputs, attend)]
    side, regions = sizes.image // sizes.model.patch_size, sizes.model.region_grid
    allowed = attention_allowed(1, (side, side), (regions, regions), sizes.model.prompts)
    exact = exact_attention(*(widen(x).numpy()[0].astype(np.float64) for x in inputs), sizes.model.heads, allowed)
    errors = [float(np.abs(widen(a).numpy()[0] - b).max() / np.abs(b).max()) for a, b in zip(found, exact, strict=True)]
    sizes = chosen_sizes("attention", options.size, options.batch, options.precision)
    inputs, attend = attention_inputs(sizes)

    def seconds(run: Callable[[], list[jt.Var]]) -> float:
        """Of one of many calls, for which the GPU is waited for once: it computes while the host prepares the next."""
        return measure(lambda: jt.sync([x for _ in range(CALLS) for x in run()], True), 5)["seconds"] / CALLS

    forward, both = seconds(lambda: [attend()]), seconds(lambda: attention_gradients(inputs, attend))
    work = sizes.batch * attention_operations(sizes)
    return {
        "errors": dict(zip(("output", "projected", "prompts"), errors, strict=True)), "forward_seconds": forward,
        "seconds": both, "forward_tflops": work / forward / 1e12, "tflops": ATTENTION_STEP * work / both / 1e12,
        "ok": all(error < TOLERANCES[options.precision] for error in errors),  # not of NaN
    }  # fmt: skip


def profile_steps(options: argparse.Namespace, steps: int = 3) -> dict[str, object]:
    """Prints what takes the time of training steps, by Jittor's profiler, which waits for each operator."""
    import jittor as jt

    from jseg.benchmark import TASKS, chosen_sizes, measure

    train_step, _ = TASKS["train"](chosen_sizes("train", options.size, options.batch, options.precision))
    seconds = measure(train_step, steps)["seconds"]
    with jt.profile_scope() as report:
        for _ in range(steps):
            train_step()
        jt.sync_all(True)
    names, *rows = report
    count, total = names.index("Count"), names.index("TotalTime")
    for row in rows[:40]:
        print(f"{float(row[total]) / 1e6 / steps:9.3f} ms {int(row[count]) / steps:6.0f} a step  {row[0][:150]}")
    launches, busy = (sum(float(row[column]) for row in rows) / steps for column in (count, total))
    return {"seconds": seconds, "operators_seconds": busy / 1e9, "operators": launches, "kinds": len(rows)}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, object]]] = {
    "steps": measure_steps, "attention": measure_attention, "profile": profile_steps,
}  # fmt: skip


def run_part(options: argparse.Namespace) -> int:
    """Runs one of `PARTS` in this process and prints its JSON."""
    from jseg.runtime.start import start

    start(options.device)
    found = PARTS[options.part](options)
    print(json.dumps(found), flush=True)
    return int(not found.get("ok", True))


def main() -> int:
    """Runs all parts; see the module docstring."""
    parser = ArgumentParser(__doc__)
    parser.add_argument("--report", type=Path, default=Path("work_dirs/gpu/report.md"), help="file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace files that jseg did not write")
    parser.add_argument("--only", default="", metavar="WORDS", help="only parts whose name holds this")
    parser.add_argument("--minutes", type=float, help="only what proves most, in so many minutes")
    parser.add_argument("--compare", metavar="COMMAND", help="a peer; {batch} and {precision} are filled in")
    parser.add_argument("--part", choices=PARTS, help="only this part, in this process")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of --part (default: fp32)")
    parser.add_argument("--size", default="voc", help="as in benchmark.py (default: voc)")
    parser.add_argument("--batch", type=int, default=16, help="default: 16")
    parser.add_argument("--repeats", type=int, default=20, help="timed steps (default: 20)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="cpu: to rehearse --minutes")
    args = parser.parse_args()
    if args.device == "cuda" and not prepare().toolkit:
        raise UserError(f"no GPU to try: {prepare().cuda_note}")
    if args.part:
        return run_part(args)
    folder = check_writable(args.report.absolute().parent)
    chosen = {name: part for name, part in parts(folder, args).items() if args.only in name}
    logs = [folder / f"{number:02}_{name.replace(' ', '_')}.log" for number, name in enumerate(chosen)]
    check_outputs([args.report, *logs], folder=folder, overwrite=args.overwrite)
    if not chosen:
        raise UserError(f"--only {args.only!r}: no part has such a name")
    found = {finding.name: finding.found for finding in findings(prepare())}
    lines = ["; ".join([found["GPU"], f"driver {found['NVIDIA driver']}", found["CUDA toolkit"], found["Python"],
                        time.strftime("%Y-%m-%d")]), "",
             "| what | state | seconds | result |", "|---|---|---|---|"]  # fmt: skip
    failed, end = False, time.perf_counter() + 60 * (args.minutes or float("inf"))
    for log, (name, (limit, arguments)) in zip(logs, chosen.items(), strict=True):
        state, seconds, last = "no time", 0.0, ""
        if end - time.perf_counter() > 1:
            state, seconds, last = try_part(arguments, log, min(limit, end - time.perf_counter()))
        failed |= not state.startswith("ok")
        lines.append(f"| {name} | {state} | {seconds:.0f} | {last.replace('|', '/')} |")
        print(f"{state:12} {seconds:7.0f} s  {name}: {last}", flush=True)
        # after each part: a crash of the machine loses nothing
        write_whole(args.report, (TEXT_MARK + "\n".join(lines) + "\n").encode())
    print(f"report: {args.report}")
    return int(failed)


if __name__ == "__main__":
    run(main)
