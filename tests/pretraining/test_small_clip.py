"""The two towers: the shortened last block gives the image tower's own output, exported files are CLIP weights."""

from pathlib import Path

import jittor as jt
import numpy as np

from jseg.clip.tokenizer import Tokenizer
from jseg.clip.weights import read_clip_weights
from jseg.config import IMAGENET_MEAN, IMAGENET_STD
from jseg.data.class_names import SHAPES_NAMES
from jseg.pretraining.images import Settings, make_tokenizer
from jseg.pretraining.training import TEMPLATES, SmallClip, evaluate, export


def test_embeddings_are_those_of_the_image_tower(tiny: Settings) -> None:
    clip = SmallClip(tiny, 600)
    images = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), np.uint8)
    pixels = (images - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    expected = clip.image(jt.array(pixels.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(clip.embed_images(images).numpy(), expected, atol=1e-5)


def test_exported_file_is_a_clip(tiny: Settings, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tiny)
    clip = SmallClip(tiny, tokenizer.vocab_size)
    export(tmp_path / "clip.safetensors", clip, tokenizer, {"seed": 0})
    read = read_clip_weights(tmp_path / "clip.safetensors")
    assert read.config["image_heads"] == tiny.image_heads and read.config["text_heads"] == tiny.text_heads
    assert read.config["image_size"] == tiny.image_size
    assert Tokenizer(read.source.meta["vocabulary"]).fingerprint == tokenizer.fingerprint
    for name, array in clip.tensors().items():
        np.testing.assert_allclose(read.tensors[name], array, atol=1e-3, rtol=1e-3)


def test_figures_are_percentages(tiny: Settings) -> None:
    tokenizer = make_tokenizer(tiny)
    figures = evaluate(SmallClip(tiny, tokenizer.vocab_size), tokenizer, 20)
    assert 0 <= figures["zero-shot accuracy"] <= 60  # untrained: about one in 20
    assert figures["per class"].keys() == {*SHAPES_NAMES}
    assert all(template.count("{}") == 1 for template in TEMPLATES)
