"""Batches: the same for any number of workers and ranks; errors, early stops and killed processes end cleanly."""

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
from jseg.data.dataset import SegmentationDataset, open_dataset
from jseg.data.loader import Batch, batch_lines, evaluation_images, training_batches
from jseg.data.workers import map_in_order
from jseg.errors import UserError

PYTHON_PATH = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))


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


def test_shapes_types_and_order() -> None:
    batch = take(small_config(), 1)[0]
    assert batch.images.shape == (4, 3, 48, 56) and batch.images.dtype == np.uint8
    assert batch.labels.shape == (4, 48, 56) and batch.labels.dtype == np.int16
    assert len(batch.names) == 4 and batch.iteration == 0 and batch.images.flags["C_CONTIGUOUS"]
    assert set(np.unique(batch.labels)) <= {*range(15), 255}


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_do_not_depend_on_workers_nor_on_the_start(workers: int) -> None:
    late = take(small_config(workers), 3, start_iteration=4)
    for found, expected in zip(late, take(small_config(), 7)[4:], strict=True):
        np.testing.assert_array_equal(found.images, expected.images)
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_array_equal(found.sizes, expected.sizes)
        assert found.names == expected.names and found.iteration == expected.iteration


def test_ranks_share_the_batch_of_one_process() -> None:
    whole = take(small_config(), 3)
    parts = [take(small_config(), 3, rank=rank, world=2) for rank in range(2)]
    for step in range(3):
        for rank in range(2):
            np.testing.assert_array_equal(parts[rank][step].images, whole[step].images[rank::2])
            np.testing.assert_array_equal(parts[rank][step].labels, whole[step].labels[rank::2])
            assert parts[rank][step].names == whole[step].names[rank::2] and parts[rank][step].iteration == step


def test_without_chance_a_sample_is_the_image() -> None:
    config = small_config(batch_size=1)
    config.data.ratio_range, config.data.flip_probability, config.data.photometric = (1.0, 1.0), 0.0, False
    config.data.crop_size, config.data.setting = (64, 80), "supervised"
    dataset = open_dataset(config.data, "train")
    batch = take(config, 1)[0]
    image, labels, _ = dataset.read(int(batch.names[0].split("_")[1]))
    np.testing.assert_array_equal(batch.images[0, :, :, :64], image.transpose(2, 0, 1))
    np.testing.assert_array_equal(batch.labels[0, :, :64], labels)
    assert batch.sizes.tolist() == [[64, 64]] and (batch.labels[0, :, 64:] == 255).all()


def read_where(index: int) -> str:
    return f"{os.getpid()} {any(name.split('.')[0].startswith('jittor') for name in sys.modules)}"


def test_workers_do_not_import_jittor() -> None:
    sys.modules.setdefault("jittor_of_the_parent", sys)  # as if the parent had loaded it
    found = [text.split() for text in map_in_order(read_where, ((index,) for index in range(8)), 2)]
    assert {loaded for _, loaded in found} == {"False"} and str(os.getpid()) not in {process for process, _ in found}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_file_ends_the_run_with_its_name(voc: DataConfig, workers: int) -> None:
    dataset = SegmentationDataset(voc, "train")
    dataset.image_path(1).write_bytes(dataset.image_path(1).read_bytes()[:500])
    voc.workers = workers
    config = Config(data=voc, train=TrainConfig(batch_size=3))
    for images in (training_batches(dataset, config), evaluation_images(dataset, config)):
        with pytest.raises(UserError, match=r"b2\.jpg: truncated"):
            list(islice(images, 3))


@pytest.mark.parametrize("workers", [0, 3])
def test_evaluation_images_come_once_in_order(workers: int) -> None:
    config = small_config(workers)
    config.test.short_side, config.test.scales = 80, (1.0, 0.5)
    dataset = open_dataset(config.data, "val")
    found = list(evaluation_images(dataset, config))
    assert [item.name for item in found] == [dataset.read(index)[2] for index in range(5)]
    assert [item.name for item in evaluation_images(dataset, config, 1, 3)] == [found[1].name, found[4].name]
    for index, (images, labels, _, size) in enumerate(found):
        original, expected, _ = dataset.read(index)
        for image, side in zip(images, (80, 40), strict=True):
            resized = transforms.resize_image(original, (side, side)).transpose(2, 0, 1)
            np.testing.assert_array_equal(image, resized)
        np.testing.assert_array_equal(labels, expected)
        assert size == (64, 64) == labels.shape


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

    if __name__ == "__main__":
        main()
"""


def marked_processes(mark: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:  # gone, or not ours
            continue
    return found


@pytest.mark.parametrize("end", ["stop early", "fail", "interrupt the group", "kill the parent"])
def test_no_worker_outlives_its_program(tmp_path: Path, end: str) -> None:
    (tmp_path / "train.py").write_text(textwrap.dedent(SCRIPT))
    mark = f"JSEG_TEST_MARK={tmp_path}"  # in the environment of all processes of the script
    environment = {**os.environ, "PYTHONPATH": PYTHON_PATH, "JSEG_TEST_MARK": str(tmp_path)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen([sys.executable, "train.py", end], cwd=tmp_path, env=environment, **pipes)
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    if end == "interrupt the group":  # what Ctrl-C in a terminal does
        os.killpg(process.pid, signal.SIGINT)
    elif end == "kill the parent":
        assert len(marked_processes(mark)) >= 3
        process.kill()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode == 0) == (end == "stop early"), errors
    assert ("the trainer failed" in errors) == (end == "fail")
    assert errors.count("KeyboardInterrupt") == (end == "interrupt the group")  # of the program, not of its workers
    until = time.monotonic() + 10
    while marked_processes(mark) and time.monotonic() < until:
        time.sleep(0.05)
    assert not marked_processes(mark)


def test_batch() -> None:
    config = Config()
    config.train.recipe_batch = 16
    assert batch_lines(config) == "batch: 16 images in all"
    config.train.micro_batch = 4
    assert batch_lines(config, 2).endswith("all (2 processes x 2 micro-batches x 4, gradients added up)")
    config.train.batch_size = 8
    assert "\nwarning: the effective batch is 8, the recipe's is 16" in batch_lines(config)
    for micro_batch, world in ((0, 3), (8, 4)):
        config.train.micro_batch = micro_batch
        with pytest.raises(UserError, match="batch_size=8: must be a multiple"):
            batch_lines(config, world)
