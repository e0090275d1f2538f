"""What a training step costs the host and how much it launches, kept as a budget, on the stand-in GPU (slow: nvcc)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jseg.config import ModelConfig
from tests.standin_gpu.build import find_nvcc

ROOT = Path(__file__).parents[2]
# a little above what docs/speed.md measured for a bf16 step and wants lower; none depends on the batch but the bytes
MOST_LAUNCHES, MOST_OUTSIDE_OF_LAYERS = 1400, 300
MOST_GIGABYTES = 38  # of batch 16 at VOC size, moved by what is neither a product nor attention
MOST_MILLISECONDS = 120  # of processor time: 56 measured on a quiet machine, 91 beside other programs


def costs(*parts: str) -> list[dict[str, Any]]:
    """What tests/standin_gpu/cost.py measures."""
    if find_nvcc() is None:
        pytest.skip("no nvcc of CUDA 13 (pip install -e '.[cuda13]', or install the toolkit)")
    command = [sys.executable, "-m", "tests.standin_gpu.cost", *parts]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_launches_inside_and_outside_of_layers() -> None:
    whole, *deeper = costs(*(f"inductive:bf16:tiny:{layers}" for layers in ("2:2:2", "3:2:2", "2:3:2", "2:2:3")))
    launches, *others = (cost["launches"] + cost["products"] for cost in (whole, *deeper))
    of_layer = [more - launches for more in others]  # of encoder, decoder, recovery decoder
    outside, model = launches - 2 * sum(of_layer), ModelConfig()
    counts = model.layers, model.decoder_layers, model.recovery_layers
    assert outside <= MOST_OUTSIDE_OF_LAYERS
    assert outside + sum(count * each for count, each in zip(counts, of_layer, strict=True)) <= MOST_LAUNCHES


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["inductive", "transductive", "supervised"])
def test_no_operator_runs_on_the_cpu_and_the_host_never_waits(setting: str) -> None:
    for cost in costs(*(f"{setting}:{precision}:tiny:2:2:2" for precision in ("fp32", "bf16"))):
        assert cost["on_cpu"] == [] and cost["waits"] == 0


@pytest.mark.slow
def test_time_of_the_host_and_traffic_at_voc_size() -> None:
    (cost,) = costs("inductive:bf16:voc")
    assert cost["milliseconds"] <= MOST_MILLISECONDS and cost["gigabytes"] <= MOST_GIGABYTES
