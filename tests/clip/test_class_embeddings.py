"""Class embeddings: ensembles against the release, the cache, files of embeddings, and where a run takes them from."""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jseg.clip.class_embeddings import (
    COCO_TEMPLATES,
    VOC_TEMPLATES,
    TextFeatures,
    class_embeddings,
    embed_class_names,
    random_text_model,
    read_embeddings,
    text_model_of,
    unit_rows,
    write_embeddings,
)
from jseg.clip.tokenizer import VOCABULARY_NAME, Tokenizer, generate_vocabulary, write_vocabulary
from jseg.clip.weights import read_clip_weights
from jseg.config import Config
from jseg.data.class_names import class_list
from jseg.engine import checkpoint
from jseg.errors import UserError
from jseg.weights import record
from jseg.weights.reader import WeightFile
from tests.clip.test_text_tower import recorded_tower
from tests.small_weights import write_clip

VOC, COCO, SHAPES = class_list("voc12"), class_list("coco_stuff"), class_list("shapes")
NAMES = ["cat", "dog", "traffic light"]
TEMPLATES = ["a photo of a {}.", "the {} in the scene"]


class CountingTower:
    """A text tower that is a table of random vectors; counts its calls."""

    context_length, calls = 24, 0
    table = np.random.default_rng(0).standard_normal((2000, 8)).astype(np.float32)

    def __call__(self, token_ids: np.ndarray) -> SimpleNamespace:
        self.calls += 1
        return SimpleNamespace(numpy=lambda: self.table[token_ids].sum(axis=1))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(generate_vocabulary(NAMES, 30))


@pytest.mark.parity
def test_ensembles_equal_the_release(golden: Path, test_data: Path) -> None:
    """Tolerance 5e-5, as tolerances.json says for text*."""
    for path in [*(golden / "torch_release").glob("text*.npz")] or pytest.fail("no recorded texts"):
        data = np.load(path)
        tower, tokenizer = recorded_tower(data), Tokenizer(test_data / VOCABULARY_NAME)
        classes, templates = json.loads(str(data["classes_json"])), json.loads(str(data["templates_json"]))
        assert tuple(templates) == COCO_TEMPLATES
        for expected, used in (("ensemble15", COCO_TEMPLATES), ("single", VOC_TEMPLATES)):
            rows = embed_class_names(classes, used, tokenizer, tower, "hash")
            assert rows.dtype == np.float32
            wanted = data[expected] / np.linalg.norm(data[expected], axis=1, keepdims=True)
            np.testing.assert_allclose(rows, wanted, atol=5e-5)


def test_cache_is_keyed_by_everything_that_matters(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tower = CountingTower()

    def embed(**changes: object) -> np.ndarray:
        arguments = {"names": NAMES, "templates": TEMPLATES, "tokenizer": tokenizer, "text_tower": tower,
                     "weights_hash": "a", "cache_folder": tmp_path}  # fmt: skip
        return embed_class_names(**{**arguments, **changes})

    first = embed()
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    changes = {"names": NAMES[::-1], "templates": TEMPLATES[:1], "weights_hash": "b",
               "tokenizer": Tokenizer(tokenizer.merges[:-1])}  # fmt: skip
    for number, key in enumerate(changes, start=2):
        embed(**{key: changes[key]})
        assert tower.calls == number, key
    assert np.array_equal(embed(), first) and tower.calls == 5 and len(list(tmp_path.iterdir())) == 5
    for content in (b"", whole[:-3], whole[:-4] + np.float32(np.nan).tobytes()):  # a damaged one is made again
        path.write_bytes(content)
        assert np.array_equal(embed(), first)
    assert tower.calls == 8


def test_wrong_prompts_are_user_errors(tokenizer: Tokenizer) -> None:
    for names, templates in (([], TEMPLATES), (NAMES, []), (NAMES, ["{} and {}"]), (["zebra " * 30], TEMPLATES)):
        with pytest.raises(UserError, match=r"need names|tokens where 24 fit"):
            embed_class_names(names, templates, tokenizer, CountingTower(), "hash")


def rows(count: int = 20) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal((count, 8)) * 3).astype(np.float16)


def test_files_are_used_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    np.save(tmp_path / "a.npy", rows())
    write_embeddings(tmp_path / "a.safetensors", rows(), VOC.names, VOC_TEMPLATES, "ab" * 32)
    for name in ("a.npy", "a.safetensors"):
        found = read_embeddings(tmp_path / name, VOC, VOC_TEMPLATES)
        assert found.dtype == np.float32 and np.array_equal(found, rows().astype(np.float32))
        assert ("taken to be voc12's" in capsys.readouterr().out) == (name == "a.npy")


def test_released_files_are_known_by_their_checksum(test_data: Path, capsys: pytest.CaptureFixture) -> None:
    for name, classes, templates in (("voc12_single", VOC, VOC_TEMPLATES), ("coco_multi", COCO, COCO_TEMPLATES)):
        found = read_embeddings(test_data / f"{name}.npy", classes, templates)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=2e-3)  # float16 rows of unit length
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match="other templates"):
        read_embeddings(test_data / "voc12_single.npy", VOC, COCO_TEMPLATES)


@pytest.mark.parametrize(("array", "names", "templates", "match"), [
    (rows(19), VOC.names, (), "for 19 classes, the class list of voc12 has 20"),
    (rows(), SHAPES.names, (), "other classes: row 0 is 'red striped circle', class 0 of voc12 is 'aeroplane'"),
    (rows(), VOC.names, COCO_TEMPLATES, r"other templates \(15, first .*\) than text.templates \(1,"),
    (np.full((20, 8), np.nan, np.float32), (), (), "expected finite floats"),
])  # fmt: skip
def test_embeddings_that_do_not_fit(
    array: np.ndarray, names: tuple[str, ...], templates: tuple[str, ...], match: str, tmp_path: Path
) -> None:
    write_embeddings(tmp_path / "a.safetensors", array, names, templates, "")
    with pytest.raises(UserError, match=match):
        read_embeddings(tmp_path / "a.safetensors", VOC, VOC_TEMPLATES)


def test_damaged_files_are_user_errors(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", rows())
    content = (tmp_path / "a.npy").read_bytes()
    for damaged in (b"", content[:60], content[:-4], content.replace(b"(20, 8)", b"(20, 8000000)")):
        (tmp_path / "a.npy").write_bytes(damaged)
        with pytest.raises(UserError, match="truncated or no"):
            read_embeddings(tmp_path / "a.npy", VOC)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSEG_CACHE", str(tmp_path / "cache"))


def random_config() -> Config:
    config = Config()
    config.model.init, config.model.output_dim = "random", 16
    config.text.vocabulary, config.text.width, config.text.layers, config.text.heads = "generated", 24, 2, 3
    config.text.context_length = 20
    return config


def saved(folder: Path, config: Config, text: TextFeatures) -> WeightFile:
    path = folder / "weights.safetensors"
    meta = checkpoint.describe(config, SHAPES, text)
    checkpoint.save(path, {"backbone.x": np.zeros(1), **checkpoint.text_arrays(text)}, meta)
    return checkpoint.read_whole(path)


def test_a_random_tower_depends_on_the_seed_alone() -> None:
    config = random_config()
    first, again = class_embeddings(config, SHAPES), class_embeddings(config, SHAPES)
    assert first.matrix.shape == (20, 16) and np.array_equal(first.matrix, again.matrix)
    np.testing.assert_allclose(np.linalg.norm(first.matrix, axis=1), 1, atol=1e-5)
    config.train.seed = 1
    assert np.abs(class_embeddings(config, SHAPES).matrix - first.matrix).max() > 1e-3


def test_weights_bring_their_embeddings_and_their_tower(tmp_path: Path) -> None:
    config = random_config()
    text = class_embeddings(config, SHAPES)
    file = saved(tmp_path, config, text)
    tower = text_model_of(file, Config().text)  # another config: all comes from the file
    assert tower.heads == 3 and tower.merges == text.text_model.merges
    rows = tower.embed(["red circle", SHAPES.names[3]], config.text.templates)
    np.testing.assert_allclose(rows[1], text.matrix[3], atol=1e-6)
    config.train.seed = 5  # would make another random tower
    again = class_embeddings(config, SHAPES, file)
    assert np.array_equal(again.matrix, text.matrix) and again.text_model is not None
    config.text.templates = ("one {}",)  # other templates: the tower of the file has to run
    assert np.abs(class_embeddings(config, SHAPES, file).matrix - text.matrix).max() > 1e-3


def test_embeddings_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    """Those that a weight file holds, and what a tower gives whose last weights are 0."""
    config = random_config()
    text = class_embeddings(config, SHAPES)
    text.matrix[2, 3] = np.inf
    with pytest.raises(UserError, match=r"weights\.safetensors is damaged: its class embeddings are not finite"):
        class_embeddings(config, SHAPES, saved(tmp_path, config, text))
    text.text_model.tensors["text_projection"][:] = 0
    with pytest.raises(UserError, match="class embeddings are not finite"):
        text.text_model.embed(["cat"], ["a {}"])


def test_embeddings_from_a_file(tmp_path: Path) -> None:
    config = random_config()
    file = saved(tmp_path, config, class_embeddings(config, SHAPES))
    np.save(tmp_path / "rows.npy", np.eye(20, 16, dtype=np.float32))
    config.text.embeddings = str(tmp_path / "rows.npy")
    text = class_embeddings(config, SHAPES)
    assert np.array_equal(text.matrix, np.eye(20, 16)) and text.text_model is None
    config.model.output_dim = 9
    with pytest.raises(UserError, match="length 16, the model's output_dim is 9"):
        class_embeddings(config, SHAPES)
    config.model.output_dim = 16
    with pytest.raises(UserError, match="trained with other class embeddings"):
        class_embeddings(config, SHAPES, file)
    assert class_embeddings(config, SHAPES, file, other_classes=True).matrix[0, 0] == 1
    config.text.embeddings = ""
    file = WeightFile({"backbone.x": np.zeros(1)}, {}, "", "", Path("released.pth"))
    with pytest.raises(UserError, match=r"text\.embeddings.*fetch_pretrained"):
        class_embeddings(config, SHAPES, file)


def test_a_vocabulary_of_another_size_is_refused(golden: Path) -> None:
    clip = read_clip_weights(golden / "torch_release" / "convert" / "hf_clip.safetensors")
    config = Config()
    tower = text_model_of(clip, config.text)
    assert not any(name.startswith("visual.") for name in tower.tensors)
    with pytest.raises(UserError, match=r"tokens, the vocabulary has 515: correct text\.vocabulary"):
        dataclasses.replace(tower, merges=(("a", "b"),)).embed(NAMES, TEMPLATES)
    config.text.vocabulary = "generated"
    assert text_model_of(clip, config.text).merges is None  # never a generated one beside trained weights


def test_an_untrained_text_tower_is_refused_and_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = random_config()
    config.text.context_length = 40
    model = random_text_model(config, SHAPES)
    config.text.vocabulary = str(tmp_path / "vocabulary.gz")
    write_vocabulary(config.text.vocabulary, model.merges)
    np.save(tmp_path / "rows.npy", np.eye(20, 16, dtype=np.float32))

    def file(**changes: np.ndarray) -> WeightFile:
        tensors = {f"text_encoder.{name}": x for name, x in (model.tensors | changes).items()}
        return WeightFile(tensors, {}, "", "", Path("ckpt.pkl"))

    table = np.zeros_like(model.tensors["token_embedding.weight"])
    still = {"token_embedding.weight": table + 1, "positional_embedding": model.tensors["positional_embedding"] * 0}
    zero = {"text_projection": model.tensors["text_projection"] * 0}
    for changes, problem in ((still, r"ckpt\.pkl is untrained: .* 1\.000"), (zero, "are not finite")):
        config.text.embeddings = ""
        with pytest.raises(UserError, match=rf"{problem}.*text\.embeddings.*model\.init"):
            class_embeddings(config, SHAPES, file(**changes))
        config.text.embeddings = str(tmp_path / "rows.npy")
        text = class_embeddings(config, SHAPES, file(**changes))
        assert text.text_model is None and text.matrix[0, 0] == 1
        assert re.search(f"warning: .*{problem}.*left out", capsys.readouterr().out)


def test_embeddings_of_a_trained_clip_are_told_from_others(test_data: Path) -> None:
    record.check_trained(unit_rows(np.load(test_data / "voc12_single.npy").astype(np.float32)), "CLIP")
    random = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
    for rows, middle in ((random, "0.0"), (random + 5, "0.9"), (random * np.nan, "nan")):
        with pytest.raises(UserError, match=f"x is untrained: cosines between class names are about -?{middle}"):
            record.check_trained(unit_rows(rows), "x")


def test_clip_weights_go_before_the_tower_of_a_released_file_and_a_given_vocabulary_is_read(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.safetensors", 16)
    clip, config = read_clip_weights(tmp_path / "clip.safetensors"), random_config()
    config.text.templates = ("{}",)
    foreign = WeightFile({"text_encoder.ln_final.weight": np.zeros(64)}, {}, "", "", Path("ckpt.pkl"))
    assert class_embeddings(config, SHAPES, foreign, clip).text_model.source == str(tmp_path / "clip.safetensors")
    config.text.vocabulary = str(tmp_path / "none.gz")
    with pytest.raises(UserError, match=r"none\.gz does not exist"):
        text_model_of(clip, config.text)
    write_vocabulary(config.text.vocabulary, [("a", "b")])
    assert text_model_of(clip, config.text).merges == (("a", "b"),)  # not those that the file brings along
