"""What all tests share: environment before the first import of Jittor, golden files, real test data.

The suite runs in one worker per core (pytest-xdist, `-n logical`). The first process compiles Jittor's core and the
common kernels before the workers start: they would wait for each other, since Jittor compiles under one lock.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

if "OMP_NUM_THREADS" not in os.environ:  # oversubscribed threads make tests crawl
    os.environ |= {"OMP_NUM_THREADS": str(min(os.cpu_count() or 1, 4)), "JSEG_TEST_OWN_THREADS": "1"}
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the oracles must not reach for the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if importlib.util.find_spec("torch"):
    import torch  # noqa: F401  # an oracle; must be loaded before Jittor when both are in one process

from jseg.runtime.prepare import prepare
from jseg.runtime.start import start

# the first call of a test may compile kernels, so its time says nothing
hypothesis.settings.register_profile(
    "jseg", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("jseg")

start("auto")  # quiet, and Ctrl-C works; the first time this compiles Jittor's core
start("cpu")  # tests marked gpu choose otherwise themselves


def pytest_configure(config: pytest.Config) -> None:
    """Compiles the common kernels, in the process that is about to start the workers."""
    workers = getattr(config.option, "numprocesses", None)
    if workers and not hasattr(config, "workerinput") and not config.option.collectonly:
        if "JSEG_TEST_OWN_THREADS" in os.environ:
            os.environ["OMP_NUM_THREADS"] = str(max(1, min((os.cpu_count() or 1) // workers, 4)))
        script = "from tests.standin_gpu import hot_path as path; path.evaluate(); path.train('inductive')"
        command = [sys.executable, "-c", f"from jseg.runtime.start import start; start('cpu'); {script}"]
        root = Path(__file__).parents[1]
        environment = {**os.environ, "PYTHONPATH": str(root)}
        subprocess.run(command, cwd=root, env=environment, check=False)  # tests show what does not work


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` where CUDA cannot work, and says why."""
    if not prepare().toolkit:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=f"no CUDA: {prepare().cuda_note}"))


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder with recorded outputs of the released models: `JSEG_GOLDEN`, else tests/golden."""
    folder = Path(os.environ.get("JSEG_GOLDEN") or Path(__file__).parent / "golden")
    if not folder.is_dir():
        pytest.fail(f"golden folder {folder} does not exist: set JSEG_GOLDEN to one that does")
    return folder


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder with files that are not ours to ship (CLIP's vocabulary, released embeddings, VOC photos)."""
    folder = os.environ.get("JSEG_TEST_DATA")
    if not folder:
        pytest.skip("JSEG_TEST_DATA is not set (folder with the CLIP vocabulary and VOC sample photos)")
    if not Path(folder).is_dir():
        pytest.fail(f"JSEG_TEST_DATA={folder} is not a folder")
    return Path(folder)
