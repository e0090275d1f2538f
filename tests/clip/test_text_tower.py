"""The text tower."""

from __future__ import annotations

import json
from pathlib import Path

import jittor as jt
import numpy as np
import pytest

from jseg.clip.text_tower import TextTower, random_text_weights
from jseg.errors import UserError
from jseg.weights.state import strict_load


def small_tower() -> TextTower:
    tower = TextTower(width=16, layers=2, heads=2, output_dim=8, context_length=10, vocab_size=30)
    strict_load(tower, random_text_weights(tower, np.random.default_rng(0)))
    return tower


def embed(tower: TextTower, token_ids: np.ndarray) -> np.ndarray:
    with jt.no_grad():
        return tower(token_ids).numpy()


@pytest.mark.parity
def test_recorded_text_encoders(golden: Path) -> None:
    paths = sorted((golden / "jseg_release").glob("text_*.npz"))
    for path in paths:
        file = np.load(path)
        config = json.loads(str(file["cfg"]))
        names = ("transformer_width", "transformer_layers", "transformer_heads")
        tower = TextTower(*(config[name] for name in (*names, "embed_dim", "context_length", "vocab_size")))
        strict_load(tower, {name[2:]: file[name] for name in file.files if name.startswith("w/")})
        np.testing.assert_allclose(embed(tower, file["in/tokens"]), file["out/embedding"], atol=1e-4)
    if not paths:
        pytest.skip("no jseg_release/text_*.npz in the golden folder")


@pytest.mark.parity
def test_recorded_towers(golden: Path) -> None:
    paths = sorted((golden / "torch_release").glob("clip_towers*.npz"))
    assert paths
    for path in paths:
        file = np.load(path)
        config = json.loads(str(file["config_json"]))
        tower = TextTower(*(config[name] for name in ("tw", "tl", "th", "proj", "ctx", "vocab")))
        weights = {name.removeprefix("weight."): file[name] for name in file.files if name.startswith("weight.")}
        weights = {name: w for name, w in weights.items() if not name.startswith("visual.") and name != "logit_scale"}
        strict_load(tower, weights)
        trace: dict[str, jt.Var] = {}
        with jt.no_grad():
            embeddings = tower(file["token_ids"], trace=trace).numpy()
        np.testing.assert_allclose(embeddings, file["text_embeds"], atol=5e-5)
        np.testing.assert_allclose(trace["text_last_hidden"].numpy(), file["text_last_hidden"], atol=5e-5)


@pytest.mark.parity
def test_recorded_embeddings_of_texts(golden: Path) -> None:
    paths = sorted((golden / "torch_release").glob("text*.npz"))
    assert paths
    for path in paths:
        file = np.load(path)
        config = json.loads(str(file["config_json"]))
        names = ("width", "layers", "heads", "embed", "context_length", "vocab_size")
        tower = TextTower(*(config[name] for name in names))
        weights = {name.removeprefix("weight."): file[name] for name in file.files if name.startswith("weight.")}
        rows = np.zeros((config["vocab_size"], config["width"]), np.float32)
        rows[file["token_rows_idx"]] = file["token_rows"]
        strict_load(tower, weights | {"token_embedding.weight": rows})
        np.testing.assert_allclose(embed(tower, file["token_ids"]), file["out"], atol=5e-5)


def test_tokens_after_the_end_do_not_matter() -> None:
    tower = small_tower()
    ids = np.array([[28, 3, 5, 29, 0, 0, 0]], np.int32)
    other = np.array([[28, 3, 5, 29, 7, 1, 2]], np.int32)
    np.testing.assert_allclose(embed(tower, ids), embed(tower, other), atol=1e-6)
    np.testing.assert_allclose(embed(tower, ids), embed(tower, ids[:, :4]), atol=1e-6)
    assert np.abs(embed(tower, ids) - embed(tower, np.array([[28, 4, 5, 29]], np.int32))).max() > 1e-3


@pytest.mark.parametrize(
    ("ids", "match"),
    [
        (np.zeros((1, 11), np.int32), "texts of 11 tokens: this text tower takes at most 10"),
        (np.array([[28, 30, 29]], np.int32), "token id 30 is not in the text tower's vocabulary of 30"),
        (np.array([[28, -1, 29]], np.int32), "token id -1 is not"),
    ],
)
def test_wrong_ids_are_refused(ids: np.ndarray, match: str) -> None:
    with pytest.raises(UserError, match=match):
        small_tower()(ids)
