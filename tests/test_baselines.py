"""Segmentation without learning: every method against a PyTorch computation of the whole tower."""

import jittor as jt
import numpy as np
import pytest
import torch
from torch.nn import functional

from jseg.baselines import SCALE, PlainClip, patch_scores
from jseg.clip.image_tower import ImageTower, random_image_weights
from jseg.config import TRAINING_FREE, ModelConfig
from jseg.weights.state import state_arrays, strict_load

WIDTH, HEADS, DEPTH = 12, 3, 4


@pytest.fixture(params=[1, 2])
def tower(request: pytest.FixtureRequest) -> ImageTower:
    tower = ImageTower(16, 8, WIDTH, request.param, HEADS, 6)
    rng = np.random.default_rng(0)
    weights = {name: value + rng.standard_normal(value.shape).astype(np.float32) * 0.3
               for name, value in random_image_weights(tower, rng).items()}  # fmt: skip
    strict_load(tower, weights)
    return tower


class Reference:
    """The tower by PyTorch, in float64."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.weights = {name: torch.tensor(value, dtype=torch.float64) for name, value in weights.items()}

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def block(self, x: torch.Tensor, index: int, method: str, grid: tuple[int, int]) -> torch.Tensor:
        name = f"transformer.resblocks.{index}"
        attention = [self.weights[f"{name}.attn.in_proj_{part}"] for part in ("weight", "bias")]
        projected = functional.linear(self.norm(x, f"{name}.ln_1"), *attention)
        q, k, v = (part.unflatten(-1, (HEADS, DEPTH)).transpose(1, 2) for part in projected.chunk(3, dim=-1))
        weights = torch.eye(x.shape[1], dtype=torch.float64)  # a token sees itself
        if method == "patch_features":
            weights = (q @ k.mT / 2).softmax(-1)  # 2 = sqrt(DEPTH)
        elif method == "sclip":
            weights = (q @ q.mT / 2).softmax(-1) + (k @ k.mT / 2).softmax(-1)
        elif method == "clearclip":
            weights = (q @ q.mT / 2).softmax(-1)
        elif method == "naclip":
            bias = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
            for i in range(grid[0] * grid[1]):
                for j in range(grid[0] * grid[1]):
                    rows, columns = i // grid[1] - j // grid[1], i % grid[1] - j % grid[1]
                    bias[1 + i, 1 + j] = np.exp(-(rows**2 + columns**2) / 50)
            weights = (k @ k.mT / 2 + bias).softmax(-1)
        output = self.linear((weights @ v).transpose(1, 2).flatten(2), f"{name}.attn.out_proj")
        if method in ("clearclip", "naclip"):
            return output
        x = output + (x[:, :1] if method == "class_token" else x)
        hidden = self.linear(self.norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc")
        return x + self.linear(hidden * torch.sigmoid(1.702 * hidden), f"{name}.mlp.c_proj")

    def scores(self, images: torch.Tensor, text: torch.Tensor, method: str, layers: int) -> torch.Tensor:
        weights = self.weights
        patches = functional.conv2d(images, weights["conv1.weight"], stride=8)
        grid, positions = tuple(patches.shape[2:]), weights["positional_embedding"]
        spread = functional.interpolate(positions[1:].T.unflatten(1, (2, 2))[None], grid, mode="bilinear")
        first = (weights["class_embedding"] + positions[0]).expand(len(images), 1, -1)
        x = self.norm(torch.cat([first, (patches + spread).flatten(2).mT], dim=1), "ln_pre")
        for index in range(layers):
            x = self.block(x, index, "patch_features" if index < layers - 1 else method, grid)
        embedded = functional.normalize((self.norm(x, "ln_post") @ weights["proj"])[:, 1:], dim=-1)
        return (embedded @ text.T).mT.unflatten(2, grid)


@pytest.mark.parametrize("method", TRAINING_FREE)
def test_scores_as_of_pytorch(tower: ImageTower, method: str) -> None:
    """float32 against float64: 2e-5 of values up to 4."""
    rng = np.random.default_rng(1)
    images, text = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 24, 40), (4, 6)))
    weights, layers = state_arrays(tower), len(tower.transformer.resblocks)
    doubles = (torch.tensor(array, dtype=torch.float64) for array in (images, text))
    expected = Reference(weights).scores(*doubles, method, layers)
    scores = patch_scores(tower, jt.array(images), jt.array(text), method).numpy()
    assert scores.shape == (2, 4, 3, 5)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-5)
    config = ModelConfig(image_size=16, patch_size=8, width=WIDTH, layers=layers, heads=HEADS, output_dim=6)
    plain = PlainClip(config, {f"visual.{name}": array for name, array in weights.items()}, method)
    shares = jt.sigmoid(plain(jt.array(images), jt.array(text))).numpy()
    np.testing.assert_allclose(shares, (SCALE * expected).softmax(1), rtol=0, atol=2e-4)  # 40 x the error above / 4
