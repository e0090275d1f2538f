"""The plain image tower, and recorded outputs of both towers."""

import json
from pathlib import Path

import jittor as jt
import numpy as np
import pytest

from jseg.clip.image_tower import ImageTower, PatchEmbedding, random_image_weights, resize_positions
from jseg.clip.text_tower import TextTower
from jseg.errors import UserError
from jseg.ops.bilinear import grid_interpolation_matrix
from jseg.weights.state import strict_load


@pytest.fixture(scope="module")
def small_tower() -> ImageTower:
    tower = ImageTower(32, 8, width=16, layers=2, heads=2, output_dim=8)
    strict_load(tower, random_image_weights(tower, np.random.default_rng(0)))
    return tower


@pytest.mark.parity
def test_recorded_towers(golden: Path) -> None:
    for path in [*(golden / "torch_release").glob("clip_towers*.npz")] or pytest.fail("no recorded towers"):
        file, trace = np.load(path), {}
        config = json.loads(str(file["config_json"]))
        images = ImageTower(*(config[key] for key in ("img", "patch", "vw", "vl", "vh", "proj")))
        texts = TextTower(*(config[key] for key in ("tw", "tl", "th", "proj", "ctx", "vocab")))
        names = {name.removeprefix("weight."): name for name in file.files if name.startswith("weight.")}
        visual = {name.removeprefix("visual."): names.pop(name) for name in [*names] if name.startswith("visual.")}
        strict_load(images, {name: file[stored] for name, stored in visual.items()})
        strict_load(texts, {name: file[stored] for name, stored in names.items() if name != "logit_scale"})
        pixels = jt.array(file["images"])
        with jt.no_grad():
            found = {
                "image_embeds": images(pixels), "visual_dense": images(pixels, dense=True, trace=trace),
                "text_embeds": texts(file["token_ids"], trace=trace), "text_last_hidden": trace["text_last_hidden"],
                "visual_last_hidden_before_ln_post": trace[f"tokens_block{config['vl'] - 1}"],
            }  # fmt: skip
        for name, value in found.items():
            np.testing.assert_allclose(value.numpy(), file[name], atol=5e-5, err_msg=name)


@pytest.mark.parity
def test_recorded_resized_positions(golden: Path) -> None:
    compared = 0
    for pattern, given, prefix, tolerance in (
        ("torch_release/init_from_clip*.npz", "clip_positional_embedding", "positional_embedding_", 1e-6),
        ("jseg_release/posembed_resize*.npz", "in/pos14", "out/pos", 1e-4),
    ):
        for file in map(np.load, golden.glob(pattern)):
            for expected in [file[name] for name in file.files if name.startswith(prefix)]:
                side = round((len(expected) - 1) ** 0.5)
                resized = resize_positions(jt.array(file[given]), (side, side)).numpy()
                np.testing.assert_allclose(resized, expected, atol=tolerance, rtol=0)
                compared += 1
    assert compared


def test_positions_follow_the_aspect_of_the_grid(small_tower: ImageTower) -> None:
    rows = np.repeat(np.arange(4, dtype=np.float32), 4)  # the value of a position is its row
    positions = jt.array(np.concatenate([[9.0], rows])[:, None].astype(np.float32))
    resized = resize_positions(positions, (8, 2)).numpy()
    assert resized.shape == (17, 1) and resized[0, 0] == 9
    grid = resized[1:].reshape(8, 2)
    np.testing.assert_array_equal(grid[:, 0], grid[:, 1])
    np.testing.assert_allclose(grid[:, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    own = small_tower.positional_embedding
    expected = grid_interpolation_matrix((4, 4), (3, 7)) @ own.numpy()[1:]
    np.testing.assert_allclose(small_tower.positions((3, 7)).numpy()[1:], expected, atol=1e-6)


def test_patch_embedding_equals_a_convolution() -> None:
    torch = pytest.importorskip("torch")
    generator, embedding = np.random.default_rng(0), PatchEmbedding(8, 6)
    weight, images = (generator.standard_normal(size).astype(np.float32) for size in ((6, 3, 8, 8), (2, 3, 24, 16)))
    embedding.weight.update(jt.array(weight))
    expected = torch.nn.functional.conv2d(torch.tensor(images), torch.tensor(weight), stride=8)
    expected = expected.reshape(2, 6, -1).permute(0, 2, 1).numpy()
    np.testing.assert_allclose(embedding(jt.array(images)).numpy(), expected, atol=5e-5)


def test_wrong_sizes_are_refused(small_tower: ImageTower) -> None:
    with pytest.raises(UserError, match="image of 32x30 pixels: both sides must be multiples of the patch size 8"):
        small_tower(jt.zeros((1, 3, 32, 30)))
    with pytest.raises(UserError, match="13 rows"):
        resize_positions(jt.zeros((13, 4)), (4, 4))
