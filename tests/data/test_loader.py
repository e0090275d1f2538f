"""Batches: the same for any number of workers and ranks; errors, early stops and killed processes end cleanly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from jseg.config import Config, DataConfig, ShapesConfig, TrainConfig
from jseg.data import transforms
from jseg.data.class_names import ClassList, class_list
from jseg.data.dataset import SegmentationDataset, open_dataset
from jseg.data.label_maps import UNSEEN_PIXEL
from jseg.data.loader import Batch, evaluation_images, training_batches
from jseg.errors import UserError

PYTHON_PATH = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
linux_only = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")


def small_config(workers: int = 0, setting: str = "inductive", batch_size: int = 4, seed: int = 0) -> Config:
    shapes = ShapesConfig(size=(64, 64), train_scenes=20, val_scenes=5)
    data = DataConfig(setting=setting, shapes=shapes, crop_size=(48, 56), resize_box=(128, 64), workers=workers)
    return Config(data=data, train=TrainConfig(batch_size=batch_size, seed=seed))


def take(config: Config, count: int, **options: int) -> list[Batch]:
    batches = training_batches(open_dataset(config.data, "train"), config, **options)
    try:
        return list(islice(batches, count))
    finally:
        batches.close()


def assert_same(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
        assert one.names == other.names and one.iteration == other.iteration


class ReportingDataset:
    """Images whose name says whether Jittor is loaded in the process that reads them."""

    def __init__(self) -> None:
        self.class_list: ClassList = class_list("shapes")

    def __len__(self) -> int:
        return 4

    def name(self, index: int) -> str:
        return f"image {index}"

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        name = f"{os.getpid()} {any(name.split('.')[0].startswith('jittor') for name in sys.modules)}"
        return np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8), name


class DyingDataset(ReportingDataset):
    """Ends the process that reads it."""

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_shapes_types_and_order() -> None:
    batch = take(small_config(), 1)[0]
    assert batch.images.shape == (4, 3, 48, 56) and batch.images.dtype == np.float32
    assert batch.labels.shape == (4, 48, 56) and batch.labels.dtype == np.int32
    assert len(batch.names) == 4 and batch.iteration == 0 and batch.images.flags["C_CONTIGUOUS"]
    assert set(np.unique(batch.labels)) <= {*range(15), 255}


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_batches_do_not_depend_on_the_number_of_workers(workers: int) -> None:
    assert_same(take(small_config(workers), 4), take(small_config(0), 4))


def test_a_run_goes_on_where_another_stopped() -> None:
    assert_same(take(small_config(2), 3, start_iteration=4), take(small_config(), 7)[4:])


def test_ranks_share_the_batch_of_one_process() -> None:
    whole = take(small_config(), 3)
    parts = [take(small_config(), 3, rank=rank, world=2) for rank in range(2)]
    for step in range(3):
        for rank in range(2):
            np.testing.assert_array_equal(parts[rank][step].images, whole[step].images[rank::2])
            np.testing.assert_array_equal(parts[rank][step].labels, whole[step].labels[rank::2])
            assert parts[rank][step].names == whole[step].names[rank::2]


def test_ranks_share_the_images_of_an_evaluation() -> None:
    dataset = open_dataset(small_config().data, "val")
    names = [image.name for image in evaluation_images(dataset, small_config())]
    for rank in range(3):
        assert [image.name for image in evaluation_images(dataset, small_config(), rank, 3)] == names[rank::3]


def test_seeds_and_positions_differ() -> None:
    assert not np.array_equal(take(small_config(), 1)[0].images, take(small_config(seed=1), 1)[0].images)
    lonely = small_config(batch_size=1)
    lonely.data.shapes.train_scenes = 1
    first, second = take(lonely, 2)
    assert first.names == second.names and not np.array_equal(first.images, second.images)


def test_settings_reach_the_targets() -> None:
    supervised = np.stack([batch.labels for batch in take(small_config(setting="supervised"), 5)])
    inductive = np.stack([batch.labels for batch in take(small_config(setting="inductive"), 5)])
    transductive = np.stack([batch.labels for batch in take(small_config(setting="transductive"), 5)])
    unseen = (supervised >= 15) & (supervised != 255)
    assert unseen.any()
    assert (inductive[unseen] == 255).all() and (transductive[unseen] == UNSEEN_PIXEL).all()
    np.testing.assert_array_equal(inductive[~unseen], supervised[~unseen])  # here the seen classes are the first ones
    np.testing.assert_array_equal(transductive[~unseen], supervised[~unseen])


def test_without_chance_a_sample_is_the_normalised_image() -> None:
    config = small_config(batch_size=1)
    config.data.ratio_range, config.data.flip_probability, config.data.photometric = (1.0, 1.0), 0.0, False
    config.data.crop_size, config.data.setting = (64, 80), "supervised"
    dataset = open_dataset(config.data, "train")
    batch = take(config, 1)[0]
    image, labels, _ = dataset.read(int(batch.names[0].split("_")[1]))
    np.testing.assert_array_equal(batch.images[0, :, :, :64], transforms.normalise(image).transpose(2, 0, 1))
    np.testing.assert_array_equal(batch.labels[0, :, :64], labels)
    assert (batch.images[0, :, :, 64:] == 0).all() and (batch.labels[0, :, 64:] == 255).all()


def test_real_layout_through_workers(voc: DataConfig) -> None:
    config = Config(data=voc, train=TrainConfig(batch_size=3))
    batch = take(config, 1)[0]
    assert batch.images.shape == (3, 3, 32, 32) and sorted(batch.names) == ["a1", "b2", "c3"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_ends_the_run_with_its_name(voc: DataConfig, workers: int) -> None:
    dataset = SegmentationDataset(voc, "train")
    dataset.image_path(1).write_bytes(dataset.image_path(1).read_bytes()[:500])
    voc.workers = workers
    batches = training_batches(dataset, Config(data=voc, train=TrainConfig(batch_size=3)))
    with pytest.raises(UserError, match=r"b2\.jpg: truncated"):
        next(batches)


def test_the_data_package_does_not_import_jittor() -> None:
    program = "import sys, jseg.data.loader; print([name for name in sys.modules if name in ('jittor', 'torch')])"
    environment = {**os.environ, "PYTHONPATH": PYTHON_PATH}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    assert found.stdout == "[]\n", found.stderr


def test_workers_do_not_import_jittor() -> None:
    sys.modules.setdefault("jittor_of_the_parent", sys)  # as if the parent had loaded it
    config = small_config(workers=2)
    batches = training_batches(ReportingDataset(), config)
    names = [name for batch in islice(batches, 4) for name in batch.names]
    batches.close()
    assert {name.split()[1] for name in names} == {"False"}
    assert str(os.getpid()) not in {name.split()[0] for name in names}


def test_a_worker_that_dies_is_a_user_error_that_names_the_image() -> None:
    words = r"worker process ended unexpectedly at image \d \(out of memory\?\): try data\.workers=0"
    with pytest.raises(UserError, match=words):
        next(training_batches(DyingDataset(), small_config(workers=1)))


def test_an_image_that_vanishes_ends_the_run_with_its_name(voc: DataConfig) -> None:
    dataset = SegmentationDataset(voc, "train")
    batches = training_batches(dataset, Config(data=voc, train=TrainConfig(batch_size=3)))
    next(batches)
    dataset.image_path(1).unlink()
    with pytest.raises(UserError, match=r"b2\.jpg: cannot be read"):
        list(islice(batches, 20))


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_evaluation_images_come_once_in_order(workers: int) -> None:
    config = small_config(workers)
    config.test.short_side = 80
    dataset = open_dataset(config.data, "val")
    found = list(evaluation_images(dataset, config))
    assert [item.name for item in found] == [dataset.read(index)[2] for index in range(5)]
    for index, ((image,), labels, _, size) in enumerate(found):
        original, expected, _ = dataset.read(index)
        resized = transforms.normalise(transforms.resize_image(original, (80, 80))).transpose(2, 0, 1)
        np.testing.assert_array_equal(image, resized)
        np.testing.assert_array_equal(labels, expected)
        assert size == (64, 64) == labels.shape


def test_evaluation_images_at_several_scales() -> None:
    config = small_config()
    config.test.short_side, config.test.scales = 80, (0.5, 1.0, 1.3)
    (item, *_) = evaluation_images(open_dataset(config.data, "val"), config)
    assert [image.shape for image in item.images] == [(3, 40, 40), (3, 80, 80), (3, 104, 104)]
    assert item.size == item.labels.shape == (64, 64)


def test_evaluation_keeps_proportions_and_stops_at_a_bad_file(voc: DataConfig) -> None:
    config = Config(data=voc)
    config.test.short_side = 72
    dataset = SegmentationDataset(voc, "train")
    (image,), labels, name, size = next(evaluation_images(dataset, config))
    assert (
        image.shape == (3, 72, 96) and image.dtype == np.float32 and labels.shape == size == (36, 48) and name == "a1"
    )
    dataset.labels_path(2).write_bytes(b"")
    with pytest.raises(UserError, match=r"c3\.png"):
        list(evaluation_images(dataset, config))


SCRIPT = """
    import sys, time
    from jseg.data.loader import training_batches
    from jseg.data.dataset import open_dataset
    from jseg.config import Config, DataConfig, ShapesConfig, TrainConfig

    def main() -> None:
        shapes = ShapesConfig(size=(64, 64))
        data = DataConfig(shapes=shapes, crop_size=(64, 64), resize_box=(128, 64), workers=2)
        config = Config(data=data, train=TrainConfig(batch_size=4))
        batches = training_batches(open_dataset(config.data, "train"), config)
        next(batches)
        time.sleep(0.5)  # until the last worker has started, too
        print("ready", flush=True)
        if sys.argv[1] == "stop early":
            return
        if sys.argv[1] == "fail":
            raise ValueError("the trainer failed")
        for batch in batches:
            time.sleep(0.01)

    if sys.argv[1] == "unguarded" or __name__ == "__main__":
        main()
"""


def start_script(folder: Path, mode: str) -> tuple[subprocess.Popen, str]:
    """The script above in a session of its own; the mark is in the environment of all its processes."""
    (folder / "train.py").write_text(textwrap.dedent(SCRIPT))
    mark = f"JSEG_TEST_MARK={folder}"
    environment = {**os.environ, "PYTHONPATH": PYTHON_PATH, "JSEG_TEST_MARK": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "train.py", mode],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return process, mark


def marked_processes(mark: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:  # gone, or not ours
            continue
    return found


def assert_all_gone(mark: str, seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while marked_processes(mark) and time.monotonic() < until:
        time.sleep(0.05)
    assert not marked_processes(mark)


@linux_only
@pytest.mark.parametrize(("mode", "code"), [("stop early", 0), ("fail", 1)])
def test_a_program_that_stops_early_ends_with_its_workers(tmp_path: Path, mode: str, code: int) -> None:
    process, mark = start_script(tmp_path, mode)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert ("the trainer failed" in errors) == (mode == "fail")
    assert_all_gone(mark)


@linux_only
@pytest.mark.parametrize("kill", ["interrupt the group", "kill the parent"])
def test_no_worker_outlives_its_program(tmp_path: Path, kill: str) -> None:
    process, mark = start_script(tmp_path, "run")
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    assert len(marked_processes(mark)) >= 3
    if kill == "interrupt the group":  # what Ctrl-C in a terminal does
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.kill()
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0
    assert errors.count("KeyboardInterrupt") == (kill == "interrupt the group")  # of the program, not of its workers
    assert_all_gone(mark)


def test_a_script_without_main_guard_is_told_so(tmp_path: Path) -> None:
    process, _ = start_script(tmp_path, "unguarded")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "UserError" in errors and "if __name__ == '__main__'" in errors
