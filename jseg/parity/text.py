"""text*, tokenizer* and text_*: token ids, the text tower, prompt ensembles."""

from __future__ import annotations

import json

import jittor as jt
import numpy as np

from jseg.clip.class_embeddings import VOC_TEMPLATES, embed_class_names, unit_rows
from jseg.clip.text_tower import TextTower
from jseg.clip.tokenizer import Tokenizer, find_vocabulary
from jseg.errors import UserError
from jseg.parity.golden_file import GoldenFile, NotRun
from jseg.weights.state import strict_load

TEXT_EXCLUDED = {
    "ftfy_matters": "tells for which strings the repair of broken Unicode changes the ids, which are compared",
    "fp32_vs_fp64_json": "rounding noise of the reference",
}
TOWER_EXCLUDED = {"out/causal_mask": "a constant of the release; ours never makes that matrix in its form"}


def tokenizer() -> Tokenizer:
    """CLIP's tokenizer.

    Raises:
        NotRun: its vocabulary, which is not ours to ship, is not on this machine.
    """
    try:
        return Tokenizer(find_vocabulary())
    except UserError as error:
        raise NotRun(f"vocabulary missing: {error}") from error


def text_tower(weights: dict[str, np.ndarray], **sizes: int) -> TextTower:
    """A tower with weights under its state names."""
    tower = TextTower(**sizes)
    strict_load(tower, weights, "golden weights")
    return tower


def _decoded(encode: Tokenizer, rows: np.ndarray) -> np.ndarray:
    """Texts of rows of ids, without start, end and padding."""
    special = (0, encode.start_id, encode.end_id)
    return np.array([encode.decode(token for token in row if token not in special) for row in rows.tolist()])


def _raises(encode: Tokenizer, text: str, length: int) -> bool:
    try:
        encode(text, length)
    except UserError:
        return True
    return False


def check_text(file: GoldenFile) -> dict[str, np.ndarray]:
    """CLIP's vocabulary, a text tower, ensembles of templates."""
    encode, config = tokenizer(), file.json("config_json")
    length, strings = config["context_length"], file.json("strings_json")
    ids = encode(strings, length, truncate=True)
    file.expect("decoded_json", np.array(json.loads(str(file.arrays["decoded_json"]))))
    weights = file.starting_with("weight.")
    rows = np.zeros((config["vocab_size"], config["width"]), np.float32)
    rows[file["token_rows_idx"]] = file["token_rows"]
    tower = text_tower(
        weights | {"token_embedding.weight": rows},
        width=config["width"],
        layers=config["layers"],
        heads=config["heads"],
        output_dim=config["embed"],
        context_length=length,
        vocab_size=config["vocab_size"],
    )
    with jt.no_grad():
        out = tower(ids).numpy()
    classes, templates = file.json("classes_json"), file.json("templates_json")
    ensemble = f"ensemble{len(templates)}"
    filled = [template.replace("{}", name) for name in classes for template in templates]
    return {
        "token_ids": ids,
        "raw_token_count": np.array([len(encode.encode(text)) + 2 for text in strings]),
        "raises_without_truncate": np.array([_raises(encode, text, length) for text in strings]),
        "decoded_json": np.array([encode.decode(encode.encode(text)) for text in strings]),
        "out": out,
        "out_normed": unit_rows(out),
        f"{ensemble}_ids": encode(filled, length).reshape(len(classes), len(templates), length),
        ensemble: embed_class_names(classes, templates, encode, tower, "golden"),
        "single": embed_class_names(classes, VOC_TEMPLATES, encode, tower, "golden"),
    }


def check_tokenizer(file: GoldenFile) -> dict[str, np.ndarray]:
    """Ids, cut texts, other lengths, and the texts that are refused."""
    encode = tokenizer()
    texts = json.loads(file.path.with_suffix(".json").read_text())
    ids = encode(texts["texts"], file.arrays["ids"].shape[1])
    # the last refused text stands there by a description only: it is the long one
    refused = [texts["long_text"] if text.startswith("LONG(") else text for text in texts["errors"]]
    file.expect("extra.decoded texts", np.array(texts["decode"]))
    file.expect("extra.refused texts", np.ones(len(refused), dtype=bool))
    computed = {
        "ids": ids,
        "extra.decoded texts": _decoded(encode, ids),
        "extra.refused texts": np.array([_raises(encode, text, ids.shape[1]) for text in refused]),
    }
    for name in ("long_truncated", "ctx10"):
        # which texts these are is not recorded: the long one, and short ones that can be told from their ids
        rows = file.arrays[name]
        told = zip(rows[:, -1], _decoded(encode, rows).tolist(), strict=True)
        computed[name] = encode([texts["long_text"] if last else text for last, text in told], rows.shape[1], True)
    return computed


def check_text_tower(file: GoldenFile) -> dict[str, np.ndarray]:
    """The text tower of the Jittor release."""
    sizes = file.json("cfg")
    tower = text_tower(
        file.starting_with("w/"),
        width=sizes["transformer_width"],
        layers=sizes["transformer_layers"],
        heads=sizes["transformer_heads"],
        output_dim=sizes["embed_dim"],
        context_length=sizes["context_length"],
        vocab_size=sizes["vocab_size"],
    )
    with jt.no_grad():
        embedding = tower(file["in/tokens"]).numpy()
    return {"out/embedding": embedding, "out/embedding_normed": unit_rows(embedding)}
