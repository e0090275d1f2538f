"""The text tower."""

import json
from pathlib import Path

import jittor as jt
import numpy as np
import pytest

from jseg.clip.text_tower import TextTower, random_text_weights
from jseg.errors import UserError
from jseg.weights.state import strict_load


@pytest.fixture(scope="module")
def small_tower() -> TextTower:
    tower = TextTower(width=16, layers=2, heads=2, output_dim=8, context_length=10, vocab_size=30)
    strict_load(tower, random_text_weights(tower, np.random.default_rng(0)))
    return tower


def embed(tower: TextTower, token_ids: np.ndarray) -> np.ndarray:
    with jt.no_grad():
        return tower(token_ids).numpy()


def recorded_tower(file: np.lib.npyio.NpzFile) -> TextTower:
    """The tower of a torch_release/text*.npz, which has only the token embeddings that its texts need."""
    config = json.loads(str(file["config_json"]))
    names = ("width", "layers", "heads", "embed", "context_length", "vocab_size")
    tower = TextTower(*(config[name] for name in names))
    weights = {name.removeprefix("weight."): file[name] for name in file.files if name.startswith("weight.")}
    rows = np.zeros((config["vocab_size"], config["width"]), np.float32)
    rows[file["token_rows_idx"]] = file["token_rows"]
    strict_load(tower, weights | {"token_embedding.weight": rows})
    return tower


@pytest.mark.parity
def test_recorded_embeddings_of_texts(golden: Path) -> None:
    for path in [*(golden / "torch_release").glob("text*.npz")] or pytest.fail("no recorded texts"):
        file = np.load(path)
        np.testing.assert_allclose(embed(recorded_tower(file), file["token_ids"]), file["out"], atol=5e-5)
    for path in (golden / "jseg_release").glob("text_*.npz"):
        file = np.load(path)
        config = json.loads(str(file["cfg"]))
        names = ("transformer_width", "transformer_layers", "transformer_heads")
        tower = TextTower(*(config[name] for name in (*names, "embed_dim", "context_length", "vocab_size")))
        strict_load(tower, {name[2:]: file[name] for name in file.files if name.startswith("w/")})
        np.testing.assert_allclose(embed(tower, file["in/tokens"]), file["out/embedding"], atol=1e-4)


def test_tokens_after_the_end_do_not_matter(small_tower: TextTower) -> None:
    ids, other = (np.array([[28, 3, 5, 29, *rest]], np.int32) for rest in ((0, 0, 0), (7, 1, 2)))
    found = embed(small_tower, ids)
    np.testing.assert_allclose(found, embed(small_tower, other), atol=1e-6)
    np.testing.assert_allclose(found, embed(small_tower, ids[:, :4]), atol=1e-6)
    assert np.abs(found - embed(small_tower, np.array([[28, 4, 5, 29]], np.int32))).max() > 1e-3


def test_wrong_ids_are_refused(small_tower: TextTower) -> None:
    with pytest.raises(UserError, match="texts of 11 tokens: this text tower takes at most 10"):
        small_tower(np.zeros((1, 11), np.int32))
    for ids in ([28, 30, 29], [28, -1, 29]):
        with pytest.raises(UserError, match=r"token ids .* the text tower's vocabulary has 30"):
            small_tower(np.array([ids], np.int32))
