"""What all tests share: environment before the first import of Jittor, golden files, real test data.

The suite runs in one worker for each core (pytest-xdist), one thread each. The first process compiles Jittor's core and
the common kernels before the workers start: they would wait for each other, since Jittor compiles under one lock.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # oversubscribed threads make tests crawl
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

DEVICE = os.environ.get("JSEG_TEST_DEVICE", "cpu")
start("auto")  # quiet, and Ctrl-C works; the first time this compiles Jittor's core
start(DEVICE)


def pytest_configure(config: pytest.Config) -> None:
    """Compiles the common kernels, in a process of its own, before workers start."""
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        script = "from tests.standin_gpu import hot_path as path; path.evaluate(); path.train('inductive')"
        script = f"from jseg.runtime.start import start; start('auto'); start({DEVICE!r}); {script}"
        subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[1])  # tests show why it fails


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` where CUDA cannot work, and says why."""
    if not prepare().toolkit:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=f"no CUDA: {prepare().cuda_note}"))


@pytest.fixture(autouse=True)
def back_to_the_device() -> Iterator[None]:
    """A test that chooses a device does not choose it for those that follow."""
    yield
    start(DEVICE)


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


@pytest.fixture
def browser() -> Iterator[Any]:
    """A Chromium of the system without a window, driven by Playwright."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program:
        pytest.skip("no Chromium, so no test in a browser (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()
