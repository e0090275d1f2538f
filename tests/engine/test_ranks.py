"""Tests of jseg/runtime/ranks.py: several ranks compute what one does, an error on one ends all, GPUs are shared."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from jseg.errors import UserError
from jseg.runtime import ranks as ranks_module
from jseg.runtime.ranks import ALONE, Ranks, claim_gpu, join_ranks
from tests.engine.rank_gradients import SETTINGS, batch_gradients
from tests.tools.training_process import MPI_VARIABLES, REPOSITORY, SECONDS, mpirun, needs_mpirun


def run_ranks(*arguments: str, ranks: int = 2, libraries: str = "") -> subprocess.CompletedProcess:
    environment = {**os.environ, **MPI_VARIABLES, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    if libraries:
        environment["LD_LIBRARY_PATH"] = libraries
    command = [*mpirun(ranks), sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)


Gradients = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def gradients(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Gradients], Gradients]:
    """By setting, those of one rank; and those of two ranks with half of the batch each, which both hold alike."""
    alone = {setting: batch_gradients(setting, micro_batch=0) for setting in SETTINGS}
    folder = tmp_path_factory.mktemp("ranks")
    path, standin = folder / "gradients.npz", Path(__file__).with_name("standin_nccl.c")
    build = ["gcc", "-shared", "-fPIC", "-O1", str(standin), "-o", str(folder / "libnccl.so.2"), "-lpthread", "-lrt"]
    subprocess.run(build, check=True)
    done = run_ranks("-m", "tests.engine.rank_gradients", str(path), libraries=str(folder))
    assert done.returncode == 0, done.stderr
    return alone, dict(np.load(path))


@needs_mpirun
@pytest.mark.parametrize("setting", SETTINGS)
def test_two_ranks_have_the_gradients_of_one(gradients: tuple[dict[str, Gradients], Gradients], setting: str) -> None:
    """2 x 2 images, at once and one by one, against 1 x 4: within 1e-6 of each tensor's largest value; losses, which
    are float32 sums in another order, within 3e-6.

    The true gradient of key biases is 0: they are within 1e-6.
    """
    alone, two_ranks = gradients
    whole = dict(alone[setting])
    numbers = whole.pop("numbers")
    assert numbers[-1] > 4 and max(np.abs(gradient).max() for gradient in whole.values()) > 1
    for micro_batch in (0, 1):
        assert two_ranks[f"{setting}/{micro_batch}/numbers"] == pytest.approx(numbers, rel=3e-6)
        for name, gradient in whole.items():
            allowed = 1e-6 if name.endswith("multihead_attn.k.bias") else 1e-6 * np.abs(gradient).max()
            assert np.abs(two_ranks[f"{setting}/{micro_batch}/{name}"] - gradient).max() <= allowed, name


@needs_mpirun
def test_gradients_take_the_same_way_through_nccl(gradients: tuple[dict[str, Gradients], Gradients]) -> None:
    """A stand-in of NCCL on CPUs, with its calling conventions; a bad step on one rank is one on both."""
    assert gradients[1]["problems"].tolist() == [["the loss is nan"] * 2] * 2
    sums = gradients[1]["nccl"]
    draws = [np.random.default_rng(rank).normal(size=size).astype(np.float32) for size in [15, 70] for rank in range(2)]
    assert sums[-2:].tolist() == [0, 2 / 3] and np.array_equal(sums, gradients[1]["main_memory"])
    assert sums[:15] == pytest.approx(draws[0] + draws[1], abs=1e-6)
    assert np.array_equal(sums[15:85], sums[85:155]) and np.array_equal(sums[155:-2], draws[2].astype(np.float64))


@needs_mpirun
@pytest.mark.parametrize("mistake, code, told", [
    ("raise ValueError('spoilt')", 3, "rank 1: internal error: "),
    ("raise UserError('spoilt')", 2, "rank 1: error: spoilt"),
    ("ranks.check_same('weights', 'other')", 2, "error: weights of rank 1 differ from those of rank 0"),
])  # fmt: skip
def test_an_error_on_one_rank_ends_all_of_them(tmp_path: Path, mistake: str, code: int, told: str) -> None:
    program = f"""
        from jseg.runtime.ranks import join_ranks
        from jseg.errors import UserError

        with join_ranks() as ranks:
            print("printed by the first rank alone", flush=True)
            if ranks.rank == 1:
                {mistake}
            ranks.check_same("weights", "same")
        """
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    done = run_ranks(str(tmp_path / "program.py"))
    assert done.returncode == code and told in done.stderr
    assert done.stdout.count("alone") == 1


def test_one_process_needs_no_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.delenv("OMPI_COMM_WORLD_SIZE", raising=False)
    with join_ranks() as ranks:
        assert ranks is ALONE and ranks.first and not ranks.any(False) and ranks.any(True)
        assert ranks.sum(np.arange(3)).tolist() == [0, 1, 2] and ranks.all_gather("x") == ["x"]
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"2 processes were started, but MPI cannot be used.*pip install"), join_ranks():
        pass


def placed_ranks(number: int, count: int) -> Ranks:
    """The `number`-th of `count` processes on a machine."""
    ranks = Ranks()
    ranks.rank, ranks.world, ranks.find_place = number, count, lambda: (number, count)
    return ranks


def test_every_process_claims_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-7")
    claim_gpu(placed_ranks(1, 2), "cpu")
    claim_gpu(placed_ranks(0, 1), "cuda")  # alone: Jittor takes the first that it sees
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,GPU-7"
    with pytest.raises(UserError, match="3 processes on a machine with 2 GPUs"):
        claim_gpu(placed_ranks(0, 3), "cuda")
    claim_gpu(placed_ranks(1, 2), "auto")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-7"
    monkeypatch.setenv("SLURM_STEP_ID", "0")  # srun has shared them out already
    claim_gpu(placed_ranks(1, 2), "cuda")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-7"


def test_gpus_are_counted_where_they_have_no_device_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under Windows' WSL; instances of a shared GPU (MIG) do not count: CUDA shows a process one of them."""
    listed = "GPU 0: A (UUID: GPU-1)\n  MIG 1g.10gb Device 0: (UUID: MIG-2)\nGPU 1: A (UUID: GPU-3)\n"
    monkeypatch.setattr(ranks_module, "Path", lambda _: Path("/nowhere"))
    monkeypatch.setattr(ranks_module, "output_of", lambda *_: listed)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")  # put back later
    with pytest.raises(UserError, match="3 processes on a machine with 2 GPUs"):
        claim_gpu(placed_ranks(0, 3), "cuda")
    claim_gpu(placed_ranks(1, 2), "auto")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
