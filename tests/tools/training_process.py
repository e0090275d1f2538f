"""Real training processes on a configuration that trains in milliseconds a step: to be killed, stopped and compared."""

import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jseg.engine import checkpoint
from jseg.engine.log import read_log
from jseg.files import TEMPORARY
from tests.tools.tiny_runs import REPOSITORY, TINY, TOOL

SECONDS = 300  # a machine that does many things at once starts a process in a minute

# everything random is on: workers, augmentation, dropout, evaluations
BUSY = """
base = "tiny.py"
data = dict(workers=2, shapes=dict(val_scenes=2))
train = dict(save_every=1, eval_every=9, best_metric="pAcc")
test = dict(stride=(64, 64))
"""

MPI_VARIABLES = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}  # it asks root twice

needs_mpirun = pytest.mark.skipif(
    not shutil.which("mpirun") or importlib.util.find_spec("mpi4py") is None,
    reason="no mpirun (apt-get install openmpi-bin) or no mpi4py",
)


def mpirun(ranks: int) -> list[str]:
    """What starts a command on several ranks, more than there are cores if need be; nothing for one."""
    return ["mpirun", "-np", str(ranks), "--oversubscribe", "--bind-to", "none"] if ranks > 1 else []


class TrainingProcess:
    """`python tools/run_net.py --task train` in a session of its own; with more than one rank, under mpirun."""

    def __init__(self, work_dir: Path, *rest: str, ranks: int = 1, output: str = "") -> None:
        work_dir.mkdir(parents=True, exist_ok=True)
        self.work_dir = work_dir
        (work_dir.parent / "tiny.py").write_text(TINY)
        (work_dir.parent / "busy.py").write_text(BUSY)
        arguments = ["--config-file", str(work_dir.parent / "busy.py"), "--work-dir", str(work_dir), "--no-cuda"]
        command = [*mpirun(ranks), sys.executable, str(TOOL), *arguments, *rest]
        if output:  # where a shell redirects it to; the exit code is the tool's
            command = ["bash", "-c", f"{shlex.join(command)} {output}; exit ${{PIPESTATUS[0]}}"]
        self.output = (self.work_dir.parent / f"{self.work_dir.name}.txt").open("w+")
        environment = {**os.environ, **MPI_VARIABLES, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
        self.process = subprocess.Popen(
            command, env=environment, stdout=self.output, stderr=subprocess.STDOUT, start_new_session=True
        )

    def finish(self, code: int = 0) -> str:
        """Waits for the end and returns what was printed."""
        assert self.process.wait(timeout=SECONDS) == code, self.shown()
        return self.shown()

    def shown(self) -> str:
        return Path(self.output.name).read_text()

    def wait_until(self, happened: Callable[[], bool]) -> bool:
        """Polls as fast as it can; False when the process ended before it happened."""
        until = time.monotonic() + SECONDS
        while not happened():
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < until, self.shown()
            time.sleep(0.0005)
        return True

    def events(self, event: str) -> list[dict]:
        return [line for line in read_log(self.work_dir / "log.jsonl") if line["event"] == event]

    def is_saving(self) -> bool:
        """Whether a checkpoint is being written just now."""
        return any(TEMPORARY in name and "checkpoint" in name for name in os.listdir(self.work_dir))

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        assert self.process.wait(timeout=SECONDS) == -signal.SIGKILL, self.shown()


def assert_same_run(first: Path, second: Path, iterations: int) -> None:
    """Weights, moments, best weights and logged numbers are equal, bit for bit; nothing is logged twice."""
    for name in (checkpoint.checkpoint_path(first, iterations).name, checkpoint.WEIGHTS_NAME, "best.safetensors"):
        files = [checkpoint.read_whole(folder / name) for folder in (first, second)]
        assert files[0].tensors.keys() == files[1].tensors.keys()
        assert all(np.array_equal(array, files[1].tensors[key]) for key, array in files[0].tensors.items()), name
        assert files[0].meta["iteration"] == files[1].meta["iteration"]
    logs = []
    for folder in (first, second):
        lines = read_log(folder / "log.jsonl")
        assert len((folder / "log.jsonl").read_text().splitlines()) == len(lines)
        trained = [line for line in lines if line["event"] == "train"]
        assert [line["iteration"] for line in trained] == list(range(1, iterations + 1))
        evaluated = [(line["iteration"], line["metrics"]) for line in lines if line["event"] == "evaluation"]
        logs.append(([(line["losses"], line["lr"], line["gradient_norm"]) for line in trained], evaluated))
    assert logs[0] == logs[1] and logs[0][1]
    assert (first / "best_metrics.json").read_text() == (second / "best_metrics.json").read_text()
    assert not list(second.glob(".*.tmp"))
