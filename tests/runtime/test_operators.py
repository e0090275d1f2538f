"""Training and evaluation run none of Jittor's operators that CUDA has only with cuDNN 8, cuFFT, cuSPARSE or cuTT."""

import re
from collections.abc import Callable
from pathlib import Path

import jittor as jt
import pytest

from jseg.runtime import toolchain
from tests.standin_gpu import hot_path

LEFT_OUT = ("cudnn", "cufft", "cusparse")


# how many operators a part executes at most: each costs the host time on a GPU, too
MOST = {"evaluation": 158, "inductive": 1032, "transductive": 1036, "supervised": 1032}


def operators(run: Callable[[], None]) -> tuple[set[str], int]:
    """Names of the operators that `run` executes, without the library that each comes from, and their number."""
    with jt.profile_scope(warmup=0, rerun=0) as report:
        run()
        jt.sync_all(True)
    names = set()
    for row in report[1:]:
        names.update(re.findall(r"opkey\d+:(\w+)", row[0]) or re.findall(r"^\W*(\w+)", row[0]))
    return {re.sub("^(mkl|cublas|cub|curand)_", "", name) for name in names}, sum(int(row[2]) for row in report[1:])


@pytest.mark.parametrize("part", ["evaluation", *hot_path.UNSEEN])
def test_training_and_evaluation_run_few_operators_and_need_neither_cudnn_nor_cutt(part: str) -> None:
    found, count = operators(hot_path.evaluate if part == "evaluation" else lambda: hot_path.train(part))
    assert count <= MOST[part]
    assert "code" in found  # our kernels, among them the products of layers: the list is that of the whole step
    folder = Path(toolchain.jittor_folder()) / "extern" / "cuda"
    assert not found & {"transpose", "arg_reduce"}  # without cuTT they run on a CPU, whatever the device
    files = [path for library in LEFT_OUT for path in (folder / library / "ops").glob("*_op.h")]
    assert files and not found & {path.name.removesuffix("_op.h").partition("_")[2] for path in files}
