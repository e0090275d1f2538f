"""Attention in a few plain Jittor lines: what `jseg.ops.attention` is tested against.

Who may attend to whom: Zhang et al., "Exploring Regional Clues in CLIP for Zero-Shot Semantic Segmentation", CVPR 2024,
region-level bridge.
"""

from __future__ import annotations

import jittor as jt
import numpy as np
from jittor import nn


def masked_attention(
    q: jt.Var, k: jt.Var, v: jt.Var, allowed: np.ndarray | None = None, keep: jt.Var | None = None
) -> jt.Var:
    """Softmax attention over q (B, heads, Tq, d), k and v (B, heads, Tk, d); returns (B, heads, Tq, d).

    Args:
        allowed: bool (Tq, Tk), True where a query may see a key; None = everywhere.
        keep: (B, heads, Tq, Tk) factors on the attention weights (dropout); None = 1.
    """
    scores = jt.matmul(q, k.transpose(0, 1, 3, 2)) * q.shape[-1] ** -0.5
    if allowed is not None:
        scores = scores + jt.array(np.where(allowed, 0.0, -1e30).astype(np.float32))
    weights = nn.softmax(scores, dim=-1)
    return jt.matmul(weights if keep is None else weights * keep, v)
