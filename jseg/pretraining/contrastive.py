"""The contrastive loss of CLIP (Radford et al., 2021, figure 3), with captions left out that are true by chance."""

from __future__ import annotations

import jittor as jt
import numpy as np

from jseg.clip.blocks import unit_length

LEFT_OUT = -1e4  # added to logits that must not count; exp of it is 0


def _log_sum_exp(logits: jt.Var, dim: int) -> jt.Var:
    highest = logits.max(dim, keepdims=True).stop_grad()
    return ((logits - highest).exp().sum(dim, keepdims=True).log() + highest).reshape(-1)


def contrastive_loss(pictures: jt.Var, captions: jt.Var, scale: jt.Var, true: np.ndarray) -> jt.Var:
    """Symmetric cross-entropy of finding one's caption among all captions, and one's picture among all pictures.

    Args:
        pictures, captions: (B, D) embeddings, not normalised; row i of both belong together.
        scale: (1,) what cosines are multiplied by.
        true: (B, B) bool, whether caption [column] is true of picture [row]. Such pairs off the diagonal are no wrong
            answers: they take no part.

    Returns:
        (1,) mean over both directions and the batch.
    """
    left_out = np.where(true & ~np.eye(len(true), dtype=bool), LEFT_OUT, 0).astype(np.float32)
    pictures, captions = unit_length(pictures), unit_length(captions)
    own = (pictures * captions).sum(-1) * scale
    logits = jt.matmul(pictures, captions.transpose(1, 0)) * scale + jt.array(left_out)
    return ((_log_sum_exp(logits, 1) + _log_sum_exp(logits, 0)) / 2 - own).mean()
