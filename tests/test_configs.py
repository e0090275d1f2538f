"""What the configs set: the paper's, against a table typed from the publications; the built-in data set's rows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jseg.config import TRAINING_FREE, Config, SplitConfig, flatten, read_config, to_dict
from jseg.reproduction import SUITES

FOLDER = Path(__file__).parents[1] / "configs"
PAPER = sorted(path.stem for path in FOLDER.glob("*_*.py") if not path.stem.startswith("shapes_"))
PLUS = ["coco_stuff_plus", "context_plus", "voc12_plus"]
CROSS = ["cross_coco_to_ade20k", "cross_coco_to_context", "cross_coco_to_voc12"]

# mask, dice, recovery, iterations, iteration that it starts from, prompts, templates
RECIPES = {
    "voc12_inductive": (100, 1, 2, 40000, 0, 10, 1), "voc12_transductive": (100, 1, 2, 20000, 20000, 10, 1),
    "voc12_supervised": (100, 1, 0, 40000, 0, 10, 1), "coco_stuff_inductive": (200, 3, 50, 80000, 0, 100, 15),
    "coco_stuff_transductive": (200, 3, 50, 40000, 40000, 100, 15),
    "coco_stuff_supervised": (100, 1.5, 1, 80000, 0, 100, 15),
    "context_inductive": (200, 3, 50, 40000, 0, 100, 15),
    "context_transductive": (200, 3, 50, 20000, 20000, 100, 15),
    "context_supervised": (100, 1.5, 1, 40000, 0, 100, 15),
}  # fmt: skip
# pAcc, mIoU(S), mIoU(U), hIoU
PUBLISHED = {
    "voc12_inductive": (95.8, 92.8, 84.4, 88.4), "voc12_transductive": (97.0, 93.9, 92.2, 93.0),
    "voc12_supervised": (97.1, 94.1, 93.4, 93.7), "coco_stuff_inductive": (63.1, 40.9, 41.6, 41.2),
    "coco_stuff_transductive": (69.9, 42.0, 60.8, 49.7), "coco_stuff_supervised": (70.8, 42.9, 64.1, 51.4),
}  # fmt: skip


def read(name: str, *overrides: str) -> Config:
    return read_config(FOLDER / f"{name}.py", overrides)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name: str) -> None:
    config = read(name)
    loss, train, optimizer = config.loss, config.train, config.optimizer
    found = (loss.mask, loss.dice, loss.recovery, train.iterations, train.expected_iteration, config.model.prompts)
    assert (*found, len(config.text.templates)) == RECIPES[name]
    assert train.eval_every == (2000 if name.startswith("context") else train.iterations // 10)  # as published; ours
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
    assert name in (*RECIPES, *CROSS, *PLUS)
    expected = read(name).expected
    assert tuple(value for value, _ in expected.values()) == PUBLISHED.get(name, ())
    assert tuple(expected) == (("pAcc", "mIoU(S)", "mIoU(U)", "hIoU") if name in PUBLISHED else ())
    assert all(tolerance >= 0.3 for _, tolerance in expected.values())


@pytest.mark.parametrize("data_set", ["voc12", "coco_stuff", "context", "shapes"])
def test_a_transductive_run_starts_from_a_checkpoint_that_the_inductive_one_keeps(data_set: str) -> None:
    inductive, transductive = read(f"{data_set}_inductive"), read(f"{data_set}_transductive")
    assert inductive.train.milestones == (transductive.train.expected_iteration,) == (inductive.train.iterations // 2,)
    assert f"{data_set}_inductive" in transductive.train.expected_weights
    assert transductive.train.milestones == ()


@pytest.mark.parametrize("name", PLUS)
def test_plus_changes_the_views_alone(name: str) -> None:
    base = read(name.replace("plus", "inductive"), "test.scales=(1,1.25,1.5)", "test.flip=True")
    assert read(name) == replace(base, expected={})


@pytest.mark.parametrize("name", CROSS)
def test_cross_data_set(name: str) -> None:
    """The model and the templates of the training, the images of the target, no calibration."""
    config, source, data_set = read(name), read("coco_stuff_inductive"), name.removeprefix("cross_coco_to_")
    assert config.cross_dataset and config.gamma() == 0
    assert config.model == source.model and config.text == source.text
    if data_set == "ade20k":  # the only one without a run of its own
        split = SplitConfig("images/validation", "annotations/validation")
        assert (config.data.dataset, config.data.val, config.test) == ("ade20k", split, source.test)
    else:
        assert config.data == read(f"{data_set}_inductive").data


VIEWS = {"test.scales": [1.0, 1.25, 1.5], "test.flip": True}
CHANGES = {  # rows of the built-in data set: changes of shapes_inductive, besides what they expect
    "transductive": {"data.setting": "transductive", "train.iterations": None, "train.expected_iteration": None,
                     "train.expected_weights": None, "train.milestones": []},
    "supervised": {"data.setting": "supervised", "loss.recovery": 0.0, "train.milestones": []},
    "short": {"train.iterations": 600, "train.eval_every": 300, "train.milestones": []},
    **{name: {"test.training_free": name} for name in TRAINING_FREE},
    "plus": {**VIEWS, "test.gamma": 0.075},
    "transductive_plus": VIEWS,
}  # fmt: skip
ABLATIONS = {  # changes of shapes_short
    "no_regions": {"model.region_grid": 0},
    "no_recovery": {"loss.recovery": 0.0},
    "neither": {"model.region_grid": 0, "loss.recovery": 0.0},
    "1_region": {"model.region_grid": 1},
    "4_regions": {"model.region_grid": 2},
    "recovery_3": {"model.recovery_layers": 3},
}
ROWS = ["inductive", *CHANGES, *ABLATIONS]


@pytest.mark.parametrize("name", [*CHANGES, *ABLATIONS])
def test_a_row_changes_one_thing(name: str) -> None:
    base = "transductive" if name == "transductive_plus" else "inductive" if name in CHANGES else "short"
    configs = (read_config(FOLDER / f"shapes_{row}.py") for row in (base, name))
    base, found = (flatten(to_dict(replace(config, expected={}))) for config in configs)
    changed = {key: value for key, value in found.items() if value != base[key]}
    expected = {**CHANGES, **ABLATIONS}[name]
    assert changed.keys() == {key for key, value in expected.items() if value is None or value != base[key]}
    assert all(value is None or changed[key] == value for key, value in expected.items() if key in changed)


def test_every_run_on_shapes_is_evaluated_at_least_twice_and_at_its_end() -> None:
    for path in FOLDER.glob("shapes_*.py"):
        train = read_config(path).train
        assert 2 <= train.iterations / train.eval_every == train.iterations // train.eval_every, path.name


def test_every_row_is_in_the_suite_and_expects_numbers_that_could_be_missed() -> None:
    rows = [row.name for row in SUITES["shapes"] if not row.read().cross_dataset]
    assert sorted(rows) == sorted(f"shapes_{name}" for name in ROWS)
    assert {path.stem for path in FOLDER.glob("shapes_*.py")} == {*rows, "shapes_demo", "shapes_open"}
    for name in (*rows, "shapes_demo"):
        expected = read_config(FOLDER / f"{name}.py").expected
        assert tuple(expected) == ("pAcc", "mIoU(S)", "mIoU(U)", "hIoU")
        assert all(0 < tolerance < value for value, tolerance in expected.values())


# trainable weights without and with the decoder that only training needs, from the released models
LIVE = {10: (20_910_336, 28_528_384), 100: (21_739_776, 29_357_824)}


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_full_size_model(name: str) -> None:
    """The full-size model builds and has as many trained weights as the released one."""
    from jseg.model.clip_rc import build_clip_rc, trainable
    from jseg.model.initial_weights import initialise

    config = read(name)
    model = build_clip_rc(config.model)
    initialise(model, config.model, 0)
    sizes = {key: int(np.prod(var.shape)) for key, var in trainable(model)}
    at_inference = sum(size for key, size in sizes.items() if "recovery_decoder" not in key)
    assert (at_inference, sum(sizes.values())) == LIVE[config.model.prompts]
