"""The configs of the paper: what they set, against a table typed from the publications; full sizes (slow)."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from jseg.config import Config, read_config
from jseg.data.class_names import class_list, training_classes, training_labels

FOLDER = Path(__file__).parents[1] / "configs"
PAPER = sorted(
    path.stem for path in FOLDER.glob("*.py") if path.stem.startswith(("voc12_", "coco_stuff_", "context_", "cross_"))
)

# mask, dice, recovery, iterations, iteration that it starts from, prompts, templates
RECIPES = {
    "voc12_inductive": (100, 1, 2, 40000, 0, 10, 1),
    "voc12_transductive": (100, 1, 2, 20000, 20000, 10, 1),
    "voc12_supervised": (100, 1, 0, 40000, 0, 10, 1),
    "coco_stuff_inductive": (200, 3, 50, 80000, 0, 100, 15),
    "coco_stuff_transductive": (200, 3, 50, 40000, 40000, 100, 15),
    "coco_stuff_supervised": (100, 1.5, 1, 80000, 0, 100, 15),
    "context_inductive": (200, 3, 50, 40000, 0, 100, 15),
    "context_transductive": (200, 3, 50, 20000, 20000, 100, 15),
    "context_supervised": (100, 1.5, 1, 40000, 0, 100, 15),
}
# pAcc, mIoU(S), mIoU(U), hIoU
PUBLISHED = {
    "voc12_inductive": (95.8, 92.8, 84.4, 88.4),
    "voc12_transductive": (97.0, 93.9, 92.2, 93.0),
    "voc12_supervised": (97.1, 94.1, 93.4, 93.7),
    "coco_stuff_inductive": (63.1, 40.9, 41.6, 41.2),
    "coco_stuff_transductive": (69.9, 42.0, 60.8, 49.7),
    "coco_stuff_supervised": (70.8, 42.9, 64.1, 51.4),
}


def read(name: str, *overrides: str) -> Config:
    return read_config(FOLDER / f"{name}.py", overrides)


def test_every_config_of_the_paper_is_in_the_table() -> None:
    assert set(PAPER) == {*RECIPES, "cross_coco_to_context", "cross_coco_to_voc12"}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name: str) -> None:
    config = read(name)
    loss, train, optimizer = config.loss, config.train, config.optimizer
    found = (loss.mask, loss.dice, loss.recovery, train.iterations, train.expected_iteration, config.model.prompts)
    assert (*found, len(config.text.templates)) == RECIPES[name]
    assert (config.data.dataset, config.data.setting) == tuple(name.rsplit("_", 1))
    assert train.batch_size == train.recipe_batch == 16 and train.micro_batch == 0
    assert (optimizer.lr, optimizer.lr_factor, optimizer.betas, optimizer.eps) == (2e-5, 10, (0.9, 0.999), 1e-8)
    assert (optimizer.weight_decay, optimizer.groups, optimizer.power) == (0.01, "released", 0.9)
    assert (optimizer.min_lr, optimizer.warmup_iterations, optimizer.warmup_ratio) == (1e-6, 1500, 1e-6)
    assert (loss.focal_alpha, loss.focal_gamma) == (0.25, 2)
    data, test = config.data, config.test
    assert (data.crop_size, data.resize_box, data.ratio_range) == ((512, 512), (2048, 512), (0.5, 2.0))
    assert (test.mode, test.short_side, test.crop_size, test.stride) == ("slide", 512, (512, 512), (426, 426))
    assert (test.protocol, test.scales, test.flip) == ("generalised", (1.0,), False)
    assert config.gamma() == (0.1 if data.setting == "inductive" else 0)
    assert Path(config.model.init).name == "ViT-B-16.pt" and config.model.head_init == "released"


@pytest.mark.parametrize("name", PAPER)
def test_expected_numbers(name: str) -> None:
    """Published ones where there are any; a tolerance below 0.3 would be finer than their rounding."""
    expected = read(name).expected
    assert tuple(value for value, _ in expected.values()) == PUBLISHED.get(name, ())
    assert tuple(expected) == (("pAcc", "mIoU(S)", "mIoU(U)", "hIoU") if name in PUBLISHED else ())
    assert all(tolerance >= 0.3 for _, tolerance in expected.values())


@pytest.mark.parametrize("data_set", ["voc12", "coco_stuff", "context"])
def test_a_transductive_run_starts_from_a_checkpoint_that_the_inductive_one_keeps(data_set: str) -> None:
    inductive, transductive = read(f"{data_set}_inductive"), read(f"{data_set}_transductive")
    assert inductive.train.milestones == (transductive.train.expected_iteration,) == (inductive.train.iterations // 2,)
    assert f"{data_set}_inductive" in transductive.train.expected_weights
    assert transductive.train.milestones == ()


@pytest.mark.parametrize("name", ["cross_coco_to_context", "cross_coco_to_voc12"])
def test_cross_data_set(name: str) -> None:
    """The model and the templates of the training, the images of the target, no calibration."""
    config, source = read(name), read("coco_stuff_inductive")
    target = read(name.replace("cross_coco_to_", "") + "_inductive")
    assert config.cross_dataset and config.gamma() == 0
    assert config.model == source.model and config.text == source.text
    assert config.data == target.data


def test_both_splits_of_context() -> None:
    assert read("context_inductive").data.split == "A"
    config = read("context_inductive", "data.split=B")
    assert class_list("context", config.data.split).title == "context (split B)"


@pytest.mark.parametrize("name", PAPER)
def test_headers(name: str) -> None:
    """Command, expected results, time and memory; a config without published numbers says so."""
    header = (FOLDER / f"{name}.py").read_text().split('"""')[1]
    assert f"--config-file configs/{name}.py" in header
    assert "Expected: " in header and "Time and memory (estimates, not measured): " in header
    assert ("none is checked" in header or "no number is checked" in header) == (name not in PUBLISHED)
    assert ("recipe is ours" in header) == name.startswith("context_")


# trainable weights without and with the decoder that only training needs, from the released models
LIVE = {10: (20_910_336, 28_528_384), 100: (21_739_776, 29_357_824)}


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_full_size_model(name: str, capsys: pytest.CaptureFixture) -> None:
    """The full-size model builds, has as many weights as the released one, and runs one crop through model and loss."""
    import jittor as jt

    from jseg.model.clip_rc import build_clip_rc, trainable
    from jseg.model.initial_weights import initialise
    from jseg.model.losses import SegmentationLoss, count_masks

    config = read(name)
    classes = class_list(config.data.dataset, config.data.split)
    model = build_clip_rc(config.model)
    initialise(model, config.model, 0)
    sizes = {key: int(np.prod(var.shape)) for key, var in trainable(model)}
    at_inference = sum(size for key, size in sizes.items() if "recovery_decoder" not in key)
    assert (at_inference, sum(sizes.values())) == LIVE[config.model.prompts]
    shown = training_classes(classes, config.data.setting)
    rng = np.random.default_rng(0)
    text = rng.standard_normal((len(shown), config.model.output_dim)).astype(np.float32)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    images = rng.standard_normal((1, 3, *config.data.crop_size)).astype(np.float32)
    stored = rng.integers(0, len(classes.names), (1, 32, 32)).repeat(16, axis=1).repeat(16, axis=2)
    labels = training_labels(stored.astype(np.uint8), classes, config.data.setting)
    loss = SegmentationLoss(config.loss, classes.unseen if config.data.setting == "transductive" else ())
    start = time.perf_counter()
    with jt.no_grad():
        outputs = model.training_outputs(jt.array(images), jt.array(text))
        sums = loss.sums(outputs, labels, labels.shape[1:])
        masks = sums.num_masks if loss.unseen else count_masks(labels)
        total = float(loss.total(sums, masks, 1.0).numpy().item())
    seconds = time.perf_counter() - start
    assert tuple(outputs.logits_grid.shape) == (1, len(shown), 32, 32) and np.isfinite(total)
    with capsys.disabled():
        count = sum(int(np.prod(var.shape)) for var in model.state_dict().values())
        print(f"\n{name}: {count:,} weights, {sum(sizes.values()):,} train, {at_inference:,} of them at inference;")
        print(f"one 512 x 512 crop and its loss in {seconds:.1f} s, compilation included")
