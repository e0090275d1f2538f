"""The transformer that both CLIP towers are made of (https://github.com/openai/CLIP), with OpenAI's state names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import jittor as jt
import numpy as np
from jittor import nn

from jseg.errors import UserError
from jseg.ops.half import cast
from jseg.ops.layers import layer_norm, linear

# q, k and v side by side (B, T, 3 * width), number of heads -> (B, T, width)
Attend = Callable[[jt.Var, int], jt.Var]
Draw = Callable[[np.random.Generator, tuple[int, ...], float], np.ndarray]
Trace = dict[str, jt.Var]  # where `execute` methods leave named intermediates, when they are given one


class LayerNorm(nn.LayerNorm):
    """Jittor's layer normalisation, computed by jseg/ops/layers.py."""

    def execute(self, x: jt.Var, *arguments: Any, **options: Any) -> jt.Var | tuple[jt.Var, jt.Var]:
        """(…, width) -> (…, width); further arguments are those of `layer_norm`."""
        return layer_norm(x, self.weight, self.bias, self.eps, *arguments, **options)


class Linear(nn.Linear):
    """Jittor's linear layer, computed by jseg/ops/layers.py in the type `compute` (see jseg/model/precision.py)."""

    compute = "float32"
    _rounded: jt.Var | None = None  # a copy of type `compute`, renewed in each training step; not in the state

    @property
    def factor(self) -> jt.Var:
        """The weight as it goes into products."""
        return self.weight if self._rounded is None else self._rounded

    def execute(self, x: jt.Var, **options: Any) -> jt.Var | Sequence[jt.Var]:
        """(…, in) -> (…, out), of type `compute` or float32; options are those of `linear`."""
        return linear(cast(x, self.compute), self.factor, self.bias, **options)


class Dropout(nn.Module):
    """The rate of a dropout that runs only while `active`, which `jseg.model.clip_rc.set_training` sets."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate, self.active = rate, False

    def rate_now(self) -> float:
        """The share that is dropped as things stand: 0 while not active."""
        return self.rate if self.active else 0.0


class SelfAttention(nn.Module):
    """Projections around an attention operator that the caller chooses."""

    compute = "float32"

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight, self.in_proj_bias = jt.zeros((3 * width, width)), jt.zeros(3 * width)
        self.out_proj = Linear(width, width)

    def project(self, x: jt.Var) -> jt.Var:
        """Queries, keys and values side by side, of type `compute`: (B, T, width) -> (B, T, 3 * width)."""
        return linear(cast(x, self.compute), self.in_proj_weight, self.in_proj_bias)

    def execute(self, x: jt.Var, attend: Attend, residual: jt.Var | None = None) -> jt.Var:
        """(B, T, width) -> (B, T, width), plus `residual` if given."""
        return self.out_proj(attend(self.project(x), self.heads), residual=residual)


class Mlp(nn.Module):
    """Two linear layers with QuickGELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc, self.c_proj = Linear(width, 4 * width), Linear(4 * width, width)

    def execute(self, x: jt.Var, residual: jt.Var | None = None) -> jt.Var:
        """(…, width) -> (…, width), plus `residual` if given."""
        return self.c_proj(self.c_fc(x, activation="quick_gelu"), residual=residual)


class ResidualBlock(nn.Module):
    """Attention and MLP, each normalised before and added to its input."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.attn, self.ln_1 = SelfAttention(width, heads), LayerNorm(width, eps)
        self.mlp, self.ln_2 = Mlp(width), LayerNorm(width, eps)

    def execute(self, x: jt.Var, attend: Attend) -> jt.Var:
        """(B, T, width) -> (B, T, width)"""
        normed, x = self.ln_1(x, self.attn.compute, "input")
        normed, x = self.ln_2(self.attn(normed, attend, residual=x), self.attn.compute, "input")
        return self.mlp(normed, residual=x)


class Transformer(nn.Module):
    """A stack of blocks; UserError when `heads` does not divide `width`."""

    def __init__(self, width: int, layers: int, heads: int, eps: float = 1e-5) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise UserError(f"{heads} attention heads do not divide the width {width}: choose a divisor")
        self.width = width
        self.resblocks = nn.ModuleList([ResidualBlock(width, heads, eps) for _ in range(layers)])

    def execute(self, x: jt.Var, attend: Attend, trace: Trace | None = None) -> jt.Var:
        """(B, T, width) -> (B, T, width); leaves the output of block i in `trace` as `tokens_block<i>`."""
        for index, block in enumerate(self.resblocks):
            x = block(x, attend)
            if trace is not None:
                trace[f"tokens_block{index}"] = x
        return x


def uniform(generator: np.random.Generator, shape: tuple[int, ...], bound: float) -> np.ndarray:
    """float32 values, uniform in [-bound, bound]."""
    return generator.uniform(-bound, bound, shape).astype(np.float32)


def normal(generator: np.random.Generator, shape: tuple[int, ...], std: float) -> np.ndarray:
    """float32 values, normal with mean 0."""
    return (generator.standard_normal(shape) * std).astype(np.float32)


def random_tower_weights(
    tower: nn.Module, draws: dict[str, tuple[Draw, float]], generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """Random weights of a tower by state name, those outside the blocks first; LayerNorm weights are 1, biases 0.

    `draws`: state name, without layer number for the weights of blocks -> distribution and its scale.
    """
    state, weights = tower.state_dict(), {}
    for name in sorted(state, key=lambda name: "resblocks" in name):
        part, shape = re.sub(r"^transformer\.resblocks\.\d+\.", "", name), tuple(state[name].shape)
        if part in draws:
            draw, scale = draws[part]
            weights[name] = draw(generator, shape, scale)
        elif part.startswith(("ln_", "attn.", "mlp.")):
            weights[name] = np.full(shape, part.startswith("ln_") and part.endswith("weight"), np.float32)
    return weights
