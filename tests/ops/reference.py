"""Attention in PyTorch, the reference of all attention tests, and inputs for them."""

import jittor as jt
import numpy as np
import torch

from jseg.ops.attention import attention_allowed


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    allowed: np.ndarray | None = None,
    keep: torch.Tensor | None = None,
) -> torch.Tensor:
    """Softmax attention of tokens (B, T, width); `keep` (B, heads, Tq, Tk) multiplies the weights."""
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
    if allowed is not None:
        scores = scores.masked_fill(~torch.from_numpy(allowed), -torch.inf)
    weights = scores.softmax(-1)
    return ((weights if keep is None else weights * keep) @ v).transpose(1, 2).flatten(2)


def self_attention(projected: torch.Tensor, heads: int, causal: bool = False) -> torch.Tensor:
    """Attention within tokens (B, T, 3 * width) that hold queries, keys and values side by side."""
    allowed = np.tri(projected.shape[1], dtype=bool) if causal else None
    return attention(*projected.chunk(3, 2), heads, allowed)


def region_attention(
    projected: torch.Tensor, prompts: torch.Tensor, heads: int, leading: int, patches: tuple, regions: tuple
) -> torch.Tensor:
    """`jseg.ops.attention.region_attention`."""
    q, k, v = projected.chunk(3, 2)
    _, prompt_k, prompt_v = prompts.expand(len(projected), -1, -1).chunk(3, 2)
    allowed = attention_allowed(leading, patches, regions, prompts.shape[1])
    return attention(q, torch.cat([k, prompt_k], 1), torch.cat([v, prompt_v], 1), heads, allowed)


def random_vars(*shapes: tuple[int, ...], seed: int = 0) -> list[jt.Var]:
    """Normally distributed float32 values."""
    generator = np.random.default_rng(seed)
    return [jt.array(generator.standard_normal(shape).astype(np.float32)) for shape in shapes]
