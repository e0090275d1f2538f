"""The transformer that both CLIP towers are made of; state names as in OpenAI's weight files.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021; https://github.com/openai/CLIP
"""

from __future__ import annotations

from collections.abc import Callable

import jittor as jt
import numpy as np
from jittor import nn

from jseg.errors import UserError

Attend = Callable[[jt.Var, jt.Var, jt.Var], jt.Var]  # q, k, v (B, heads, T, d) -> (B, heads, T, d)
Trace = dict[str, jt.Var]  # where `execute` methods leave named intermediates, when they are given one


class Standardise(jt.Function):
    """`(x - mean) / sqrt(variance + eps)` over the last axis, its gradient by hand."""

    def execute(self, x: jt.Var, eps: float) -> jt.Var:
        """Any shape; returns the same shape."""
        centred = x - x.mean(-1, keepdims=True)
        self.inverse = 1.0 / ((centred * centred).mean(-1, keepdims=True) + eps).sqrt()
        self.output = centred * self.inverse
        return self.output

    def grad(self, grad_output: jt.Var) -> tuple[jt.Var, None]:
        """Gradient of x."""
        along = (grad_output * self.output).mean(-1, keepdims=True)
        return (grad_output - grad_output.mean(-1, keepdims=True) - self.output * along) * self.inverse, None


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis.

    Jittor's own takes the variance as `E[x^2] - E[x]^2`, which loses the digits of a variance that is small beside the
    mean, and CLIP's hidden states have channels far above the rest; this one centres first.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = jt.ones(width)
        self.bias = jt.zeros(width)

    def execute(self, x: jt.Var) -> jt.Var:
        """(…, width) -> (…, width)"""
        return Standardise.apply(x, self.eps) * self.weight + self.bias


class Dropout(nn.Module):
    """Dropout that runs only while `active`, which `jseg.model.clip_rc.set_training` sets."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.active = False

    def keep(self, shape: tuple[int, ...]) -> jt.Var | None:
        """Factors 0 or 1 / (1 - rate) of this shape, drawn from Jittor's generator; None when nothing is dropped."""
        if not self.active or self.rate == 0:
            return None
        return (jt.random(shape) >= self.rate).float32() / (1 - self.rate)

    def execute(self, x: jt.Var) -> jt.Var:
        """Any shape; every element has its own draw."""
        keep = self.keep(x.shape)
        return x if keep is None else x * keep


def quick_gelu(x: jt.Var) -> jt.Var:
    """The approximation of GELU that CLIP was trained with."""
    return x * jt.sigmoid(1.702 * x)


def unit_length(x: jt.Var) -> jt.Var:
    """Vectors along the last axis, divided by their length."""
    return x / (x * x).sum(-1, keepdims=True).sqrt()


def split_heads(x: jt.Var, heads: int) -> jt.Var:
    """(B, T, W) -> (B, heads, T, W / heads)"""
    batch, length, width = x.shape
    return x.reshape(batch, length, heads, width // heads).transpose(0, 2, 1, 3)


def merge_heads(x: jt.Var) -> jt.Var:
    """(B, heads, T, d) -> (B, T, heads * d)"""
    batch, heads, length, depth = x.shape
    return x.transpose(0, 2, 1, 3).reshape(batch, length, heads * depth)


class SelfAttention(nn.Module):
    """Projections around an attention operator that the caller chooses."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = jt.zeros((3 * width, width))
        self.in_proj_bias = jt.zeros(3 * width)
        self.out_proj = nn.Linear(width, width)

    def execute(self, x: jt.Var, attend: Attend) -> jt.Var:
        """(B, T, width) -> (B, T, width)"""
        width = x.shape[-1]
        projected = nn.matmul_transpose(x, self.in_proj_weight) + self.in_proj_bias  # (B, T, 3 * width)
        q, k, v = (split_heads(projected[:, :, i * width : (i + 1) * width], self.heads) for i in range(3))
        return self.out_proj(merge_heads(attend(q, k, v)))


class Mlp(nn.Module):
    """Two linear layers with QuickGELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def execute(self, x: jt.Var) -> jt.Var:
        """(…, width) -> (…, width)"""
        return self.c_proj(quick_gelu(self.c_fc(x)))


class ResidualBlock(nn.Module):
    """Attention and MLP, each normalised before and added to its input."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.attn = SelfAttention(width, heads)
        self.ln_1 = LayerNorm(width, eps)
        self.mlp = Mlp(width)
        self.ln_2 = LayerNorm(width, eps)

    def execute(self, x: jt.Var, attend: Attend) -> jt.Var:
        """(B, T, width) -> (B, T, width)"""
        x = x + self.attn(self.ln_1(x), attend)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks.

    Raises:
        UserError: `heads` does not divide `width`.
    """

    def __init__(self, width: int, layers: int, heads: int, eps: float = 1e-5) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise UserError(f"{heads} attention heads do not divide the width {width}: choose a divisor")
        self.width = width
        self.resblocks = nn.ModuleList([ResidualBlock(width, heads, eps) for _ in range(layers)])

    def execute(self, x: jt.Var, attend: Attend) -> jt.Var:
        """(B, T, width) -> (B, T, width)"""
        for block in self.resblocks:
            x = block(x, attend)
        return x


def uniform(generator: np.random.Generator, shape: tuple[int, ...], bound: float) -> np.ndarray:
    """float32 values, uniform in [-bound, bound]."""
    return generator.uniform(-bound, bound, shape).astype(np.float32)


def normal(generator: np.random.Generator, shape: tuple[int, ...], std: float) -> np.ndarray:
    """float32 values, normal with mean 0."""
    return (generator.standard_normal(shape) * std).astype(np.float32)
