"""Class embeddings: ensembles against the release, and the cache."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jseg.clip.class_embeddings import COCO_TEMPLATES, VOC_TEMPLATES, embed_class_names
from jseg.clip.tokenizer import VOCABULARY_NAME, Tokenizer, generate_vocabulary
from jseg.errors import UserError

NAMES = ["cat", "dog", "traffic light"]
TEMPLATES = ["a photo of a {}.", "the {} in the scene"]


class CountingTower:
    """A text tower that is a table of random vectors; counts its calls."""

    context_length = 24

    def __init__(self, seed: int = 0) -> None:
        self.table = np.random.default_rng(seed).standard_normal((2000, 8)).astype(np.float32)
        self.calls = 0

    def __call__(self, token_ids: np.ndarray) -> SimpleNamespace:
        assert token_ids.dtype == np.int32 and token_ids.shape[1] == self.context_length
        self.calls += 1
        rows = self.table[token_ids].sum(axis=1) * np.arange(1, len(token_ids) + 1)[:, None]  # lengths of all kinds
        return SimpleNamespace(numpy=lambda: rows)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(generate_vocabulary(NAMES, 30))


@pytest.mark.parity
def test_ensembles_equal_the_release(golden: Path, test_data: Path) -> None:
    """Tolerance 5e-5, as tolerances.json says for text*."""
    from jseg.clip.text_tower import TextTower
    from jseg.weights.state import strict_load

    for path in sorted((golden / "torch_release").glob("text*.npz")):
        data = np.load(path)
        config = json.loads(str(data["config_json"]))
        tower = TextTower(
            config["width"], config["layers"], config["heads"], config["embed"], config["context_length"],
            config["vocab_size"],
        )  # fmt: skip
        weights = {name.removeprefix("weight."): data[name] for name in data.files if name.startswith("weight.")}
        weights["token_embedding.weight"] = np.zeros((config["vocab_size"], config["width"]), np.float32)
        weights["token_embedding.weight"][data["token_rows_idx"]] = data["token_rows"]
        strict_load(tower, weights)
        tokenizer = Tokenizer(test_data / VOCABULARY_NAME)
        classes, templates = json.loads(str(data["classes_json"])), json.loads(str(data["templates_json"]))
        assert tuple(templates) == COCO_TEMPLATES
        for expected, used in (("ensemble15", COCO_TEMPLATES), ("single", VOC_TEMPLATES)):
            rows = embed_class_names(classes, used, tokenizer, tower, "hash")
            assert rows.dtype == np.float32
            wanted = data[expected] / np.linalg.norm(data[expected], axis=1, keepdims=True)
            np.testing.assert_allclose(rows, wanted, atol=5e-5)


def test_mean_of_unit_vectors(tokenizer: Tokenizer) -> None:
    rows = embed_class_names(NAMES, TEMPLATES, tokenizer, CountingTower(), "hash")
    assert rows.shape == (3, 8)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    tower = CountingTower()
    texts = [template.format(NAMES[1]) for template in TEMPLATES]
    each = np.stack([tower(tokenizer(text, 24)).numpy()[0] for text in texts])
    each /= np.linalg.norm(each, axis=1, keepdims=True)
    mean = each.mean(axis=0)
    np.testing.assert_allclose(rows[1], mean / np.linalg.norm(mean), atol=1e-6)


def test_many_texts_go_in_batches(tokenizer: Tokenizer) -> None:
    tower = CountingTower()
    many = [f"cat {number}" for number in range(100)]
    assert embed_class_names(many, TEMPLATES, tokenizer, tower, "hash").shape == (100, 8)
    assert tower.calls == 4


def test_cache_is_keyed_by_everything_that_matters(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tower = CountingTower()

    def embed(**changes: object) -> np.ndarray:
        arguments = {"names": NAMES, "templates": TEMPLATES, "tokenizer": tokenizer, "text_tower": tower,
                     "weights_hash": "a", "cache_folder": tmp_path / "cache"}  # fmt: skip
        return embed_class_names(**{**arguments, **changes})

    first = embed()
    assert tower.calls == 1 and np.array_equal(embed(), first) and tower.calls == 1
    changes = (
        {"names": NAMES[::-1]},
        {"templates": TEMPLATES[:1]},
        {"weights_hash": "b"},
        {"tokenizer": Tokenizer(tokenizer.merges[:-1])},
    )
    for number, change in enumerate(changes, start=2):
        embed(**change)
        assert tower.calls == number, change
    assert np.array_equal(embed(), first) and tower.calls == 5
    assert len(list((tmp_path / "cache").iterdir())) == 5


def test_a_damaged_cache_is_made_again(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tower = CountingTower()
    first = embed_class_names(NAMES, TEMPLATES, tokenizer, tower, "a", tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for content in (b"", whole[:-3], whole[:-4] + np.float32(np.nan).tobytes()):
        path.write_bytes(content)
        again = embed_class_names(NAMES, TEMPLATES, tokenizer, tower, "a", tmp_path)
        assert np.array_equal(again, first)
    assert tower.calls == 4


def test_wrong_prompts_are_user_errors(tokenizer: Tokenizer) -> None:
    for names, templates, match in (
        ([], TEMPLATES, "at least one"),
        (NAMES, [], "at least one"),
        (NAMES, ["a photo"], "must hold"),
        (NAMES, ["{} and {}"], "must hold"),
        (["zebra " * 30], TEMPLATES, "tokens where 24 fit"),
    ):
        with pytest.raises(UserError, match=match):
            embed_class_names(names, templates, tokenizer, CountingTower(), "hash")


def test_a_tower_of_zeros_is_a_user_error(tokenizer: Tokenizer) -> None:
    tower = CountingTower()
    tower.table[:] = 0
    with pytest.raises(UserError, match="not finite"):
        embed_class_names(NAMES, TEMPLATES, tokenizer, tower, "hash")


def test_braces_in_a_class_name_are_no_format(tokenizer: Tokenizer) -> None:
    assert embed_class_names(["{0.x}", "100%"], TEMPLATES, tokenizer, CountingTower(), "hash").shape == (2, 8)
