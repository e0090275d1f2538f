"""Results as one dictionary, as text, and pair by pair against another program."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jseg.benchmark.workloads import Timing, Workload
from jseg.errors import UserError


def processor() -> str:
    """Model name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def result(settings: dict[str, Any], workload: Workload, timing: Timing, rate: float) -> dict[str, Any]:
    """What is printed as JSON.

    Args:
        settings: task, size, … as given.
        rate: floating-point operations a second of a large matrix product; the floor is `operations / rate`.
    """
    floor = workload.operations / rate if rate else 0.0
    values = {
        **settings,
        "seconds": timing.median,
        "min": min(timing.all),
        "max": max(timing.all),
        "first": timing.first,
        "peak_gib": timing.peak_bytes / 2**30,
        "operations": workload.operations,
        "bytes": workload.bytes_moved,
        "product_gflops": rate / 1e9,
        "floor_seconds": floor,
        "achieved": floor / timing.median,
        "cpu": processor(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M"),
    }
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in values.items()}


def as_text(values: dict[str, Any]) -> str:
    """A few lines for people."""
    lines = [
        f"{values['task']} {values['size']}, batch {values['batch']}, {values['device']}, {values['threads']} threads: "
        f"{values['seconds']:.4f} s (from {values['min']:.4f} to {values['max']:.4f}; the first {values['first']:.2f})"
        f", peak {'GPU memory' if values['device'] == 'cuda' else 'memory of the process'} {values['peak_gib']:.2f} GiB"
    ]
    if values["operations"]:
        lines.append(
            f"{values['operations'] / 1e9:.1f} GFLOP, at least {values['bytes'] / 2**20:.0f} MiB; large products run "
            f"at {values['product_gflops']:.0f} GFLOP/s: floor {values['floor_seconds']:.4f} s, of which "
            f"{100 * values['achieved']:.0f} % is reached"
        )
    return "\n".join(lines)


def run_json(command: str | list[str]) -> dict[str, Any]:
    """Runs a command and reads the last line of its output as JSON.

    Raises:
        UserError: it fails, or its last line is no JSON dictionary with `seconds`.
    """
    shell = isinstance(command, str)
    finished = subprocess.run(command, shell=shell, capture_output=True, text=True)
    name = command if shell else " ".join(command)
    if finished.returncode:
        last = (finished.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{name} ended with code {finished.returncode}: {last}")
    try:
        values = json.loads(finished.stdout.strip().splitlines()[-1])
        values["seconds"] = float(values["seconds"])
    except (IndexError, ValueError, KeyError, TypeError):
        raise UserError(f"{name}: expected a last line of JSON with `seconds`") from None
    return values


def compare(ours: list[str], peer: str, pairs: int, show: Callable[[str], None]) -> dict[str, Any]:
    """Runs two commands in turn (A B A B …) and tells how many times faster ours is, pair by pair.

    Raises:
        UserError: as `run_json`.
    """
    ratios, memory, a, b = [], [], {}, {}
    for number in range(1, pairs + 1):
        a, b = run_json(ours), run_json(peer)
        ratios.append(b["seconds"] / a["seconds"])
        line = f"pair {number}: ours {a['seconds']:.4f} s, peer {b['seconds']:.4f} s, {ratios[-1]:.3f} times as fast"
        if "peak_gib" in b:
            memory.append(b["peak_gib"] / a["peak_gib"])
            line += f"; memory {a['peak_gib']:.2f} and {b['peak_gib']:.2f} GiB, {memory[-1]:.2f} times as much"
        show(line)
    median = statistics.median(ratios)
    show(f"median: {median:.3f} times as fast as the peer")
    summary = {"ratio": round(median, 4), "ratios": [round(ratio, 4) for ratio in ratios], "ours": a, "peer": b}
    return summary | ({"memory_ratio": round(statistics.median(memory), 4)} if memory else {})
