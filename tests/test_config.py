"""Tests of jseg/config.py: reading, overriding, refusing."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jseg.config import Config, SplitConfig, apply_overrides, flatten, from_dict, read_config, to_dict
from jseg.errors import UserError
from jseg.released_configs import REPOSITORY


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_defaults_are_the_published_voc_run(tmp_path: Path) -> None:
    config = read_config(write(tmp_path / "a.py", ""))
    assert (config.optimizer.lr, config.optimizer.lr_factor, config.optimizer.weight_decay) == (2e-5, 10.0, 0.01)
    assert (config.loss.mask, config.loss.dice, config.loss.recovery) == (100.0, 1.0, 2.0)
    assert (config.train.iterations, config.train.batch_size, config.model.prompts) == (40000, 16, 10)
    assert config.gamma() == 0.1


def test_base_chain_merges_sections_and_the_nearest_file_wins(tmp_path: Path) -> None:
    write(tmp_path / "a.py", "train = dict(iterations=7, seed=1)\nmodel = dict(layers=2)")
    (tmp_path / "below").mkdir()
    write(tmp_path / "below" / "b.py", 'base = "../a.py"\ntrain = dict(seed=2)')
    config = read_config(write(tmp_path / "c.py", 'base = "below/b.py"\nmodel = dict(width=60)'))
    assert (config.train.iterations, config.train.seed, config.model.layers, config.model.width) == (7, 2, 2, 60)


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = write(tmp_path / "a.py", 'data = dict(root="images")\nmodel = dict(init="random")')
    assert read_config(path).data.root == str(tmp_path / "images")
    assert read_config(path, ["data.root=images"]).data.root == str(tmp_path / "elsewhere" / "images")
    assert read_config(path).model.init == "random"


@pytest.mark.parametrize("text, words", [
    ("trian = dict(seed=1)", ("trian", "did you mean 'train'", "a.py")),
    ("train = dict(iteration=1)", ("train.iteration", "did you mean 'iterations'", "a.py")),
    ("data = dict(train=dict(image='x'))", ("data.train.image", "did you mean 'images'")),
    ("train = 3", ("train", "expected a dictionary")),
    ("train = dict(seed='x')", ("train.seed='x'", "expected int, got str")),
    ("train = dict(seed=True)", ("train.seed=True", "expected int, got bool")),
    ("train = dict(seed=1.5)", ("train.seed=1.5", "expected int, got float")),
    ("data = dict(crop_size=(64, 64, 64))", ("data.crop_size", "expected tuple")),
    ("text = dict(templates='a {}')", ("text.templates: no text file", "a single one is written ('cat',)")),
    ("import nothing_of_this_name", ("does not run", "ModuleNotFoundError")),
    ("raise SystemExit(3)", ("does not run", "SystemExit")),
    ("train = dict(", ("does not run", "SyntaxError")),
    ("data = dict(setting='inductiv')", ("data.setting", "did you mean 'inductive'")),
    ("model = dict(heads=5)", ("model.heads=5", "must divide model.width=768")),
    ("train = dict(micro_batch=3)", ("train.micro_batch=3", "must divide train.batch_size=16")),
    ("train = dict(iterations=0)", ("train.iterations=0", "at least 1")),
    ("optimizer = dict(lr=-1)", ("optimizer.lr=-1", "at least 0")),
    ("optimizer = dict(lr=float('nan'))", ("optimizer.lr=nan", "at least 0")),
    ("optimizer = dict(eps=0)", ("optimizer.eps=0.0", "at least 1e-30")),
    ("optimizer = dict(betas=(0.9, 1.0))", ("optimizer.betas=(0.9, 1.0)", "at least 0 and below 1")),
    ("data = dict(std=(1, 0, 1))", ("data.std", "at least 1e-06")),
    ("test = dict(gamma=float('nan'))", ("test.gamma=nan", "at least -1 and at most 1")),
    ("train = dict(ema=0.9)", ("train.ema=0.9 was removed from jseg: leave it out",)),
    ("model = dict(head_init='declared')", ("model.head_init='declared' was removed",)),
    ("train = {3: 4}", ("unknown key 'train.3'",)),
    ("data = dict(crop_size=(100, 512))", ("data.crop_size", "multiples of model.patch_size=16")),
    ("data = dict(crop_size=(512, 48))", ("model.region_grid=4 does not fit data.crop_size", "3 patches")),
    ("text = dict(templates=('a photo',))", ("text.templates", "hold {} once")),
    ("test = dict(stride=(600, 426))", ("test.stride", "larger than test.crop_size")),
    ("test = dict(protocol='strikt')", ("test.protocol", "did you mean 'strict'")),
    ("test = dict(scales=(1.0, -0.5))", ("test.scales", "above 0")),
    ("train = dict(milestones=(0,))", ("train.milestones=(0,)", "at least 1")),
    ("train = dict(recipe_batch=-1)", ("train.recipe_batch=-1", "at least 0")),
    ("expected = {'HIoU': [1, 1]}", ("expected", "did you mean 'hIoU'")),
    ("expected = {'hIoU': [float('nan'), 1]}", ("expected: hIoU=[nan, 1]", "finite numbers")),
    ("expected = {'hIoU': [1, float('inf')]}", ("expected: hIoU=[1, inf]", "finite numbers")),
    ("expected = {'hIoU': 1}", ("expected: hIoU=1", "[value, tolerance]")),
])  # fmt: skip
def test_mistakes_in_a_file_are_named_in_one_line(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        read_config(write(tmp_path / "a.py", text))
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.py does not exist"):
        read_config(tmp_path / "nothing.py")


def test_overrides_change_single_keys(tmp_path: Path) -> None:
    path = write(tmp_path / "a.py", "train = dict(seed=1)")
    config = read_config(
        path,
        ["train.seed=5", "optimizer.lr=1", "test.gamma=0.2", "data.shapes.size=(64,32)", "data.split=7",
         'data.dataset="voc12"', "cross_dataset=True", "text.templates=['one {}', 'two {}']"],
    )  # fmt: skip
    assert config.train.seed == 5 and config.optimizer.lr == 1.0 and config.test.gamma == 0.2
    assert config.data.shapes.size == (64, 32) and config.data.split == "7" and config.data.dataset == "voc12"
    assert config.cross_dataset is True and config.text.templates == ("one {}", "two {}")
    assert read_config(path, ["test.gamma=None"]).test.gamma is None


@pytest.mark.parametrize("override, words", [
    ("train.sead=1", ("train.sead", "did you mean 'seed'")),
    ("trian.seed=1", ("'trian'", "did you mean 'train'")),
    ("train.seed=abc", ("train.seed='abc'", "expected int, got str")),
    ("train.seed=1.5", ("expected int, got float",)), ("data.photometric=1", ("expected bool, got int",)),
    ("train.seed.more=1", ("train.seed={'more': 1}", "expected int, got dict")),
    ("train.seed", ("expected section.key=value",)), ("=1", ("expected section.key=value",)),
    ("train=1", ("expected a dictionary",)),
    ("kernels=plain", ("kernels='plain' was removed from jseg: leave it out",)),
])  # fmt: skip
def test_wrong_overrides_are_refused(override: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        apply_overrides(Config(), [override])
    assert all(word in str(caught.value) for word in words), str(caught.value)


@given(st.text(max_size=60) | st.from_regex(r"[a-z]{1,8}\.[a-z_]{1,12}=.{0,30}", fullmatch=True))
def test_any_override_is_taken_or_refused_in_one_line(text: str) -> None:
    try:
        apply_overrides(Config(), [text])
    except UserError as error:
        assert "\n" not in str(error)


def test_the_written_config_reads_back_equal(tmp_path: Path) -> None:
    path = write(tmp_path / "a.py", "train = dict(seed=9)\nexpected = {'hIoU': [30, 2.5]}\ndata = dict(root='images')")
    config = read_config(path, ["test.gamma=0.3", "text.templates=('a {}',)"])
    (tmp_path / "run").mkdir()
    copy = write(tmp_path / "run" / "config.json", json.dumps(to_dict(config)))
    assert read_config(copy) == config


@pytest.mark.parametrize("text", ["[1, 2]", "{", '{"train": {"sed": 1}}'])
def test_a_wrong_json_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="config"):
        read_config(write(tmp_path / "a.json", text))


def test_gamma_follows_setting_and_cross_dataset() -> None:
    config = Config()
    assert config.gamma() == 0.1
    config.cross_dataset = True
    assert config.gamma() == 0.0
    config.cross_dataset, config.data.setting = False, "transductive"
    assert config.gamma() == 0.0
    config.test.gamma = 0.25
    assert config.gamma() == 0.25


def test_recorded_keys_that_were_removed_are_ignored_at_their_old_default(tmp_path: Path) -> None:
    """Also in what weight files record; there at any value, for weights compute the same without them."""
    assert read_config(write(tmp_path / "a.json", json.dumps({"kernels": "auto", "train": {"ema": 0.0}}))) == Config()
    with pytest.raises(UserError, match=r"b\.json: train\.ema=0\.99 was removed from jseg: leave it out"):
        read_config(write(tmp_path / "b.json", json.dumps({"kernels": "auto", "train": {"ema": 0.99}})))
    recorded = to_dict(Config())
    recorded["train"] |= {"ema": 0.99, "patience": 4}
    recorded["model"]["head_init"] = "declared"
    assert from_dict(recorded, "weights") == Config()
    with pytest.raises(UserError, match="weights records no configuration"):
        from_dict(None, "weights")


def test_no_number_of_a_config_may_be_nan_or_infinite() -> None:
    """Every key whose default is a float, or a tuple of them; test.gamma's is None."""
    keys = []
    for key, default in flatten(dataclasses.asdict(Config())).items():
        count = len(default) if isinstance(default, tuple) else 0
        if isinstance(default[0] if count else default, float) or key == "test.gamma":
            keys.append(key)
            section, name = key.split(".")
            for bad in (math.nan, math.inf, -math.inf):
                with pytest.raises(UserError, match=key):
                    from_dict({section: {name: (bad,) * count if count else bad}}, "file")
    assert len(keys) == 23, keys


def test_another_data_set_than_the_base_s_keeps_its_recipe_but_nothing_about_its_data(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\ufeffroad\n\n traffic light \n", encoding="utf-8")
    own = tmp_path / "own.py"
    recipe = REPOSITORY / "configs" / "voc12_transductive.py"
    own.write_text(f"base = {str(recipe)!r}\ndata = dict(dataset='custom', names='classes.txt', root='streets')\n")
    config, base = read_config(own), read_config(recipe)
    assert config.data.names == ("road", "traffic light") and config.data.root == str(tmp_path / "streets")
    assert (config.data.train, config.data.val, config.expected, config.train.recipe_batch) == (
        SplitConfig(), SplitConfig(), {}, 0
    )  # fmt: skip
    assert config.data.setting == "transductive" and config.data.crop_size == base.data.crop_size
    assert (config.loss, config.model, config.optimizer) == (base.loss, base.model, base.optimizer)
    (tmp_path / "more.py").write_text("base = 'own.py'\ndata = dict(dataset='custom', unseen=('road',))\n")
    more = read_config(tmp_path / "more.py")  # the same data set: what the base says stays
    assert more.data.names == config.data.names and more.data.root == config.data.root
    record = tmp_path / "config.json"
    record.write_text(json.dumps(to_dict(more)))
    (tmp_path / "classes.txt").unlink()
    assert read_config(record) == more
    with pytest.raises(UserError, match=r"classes\.txt does not exist\); a single one is written \('cat',\)"):
        read_config(own)
