"""The recovery decoder: tells the input features of the decoder from its outputs. Used in training only.

Zhang et al., "Exploring Regional Clues in CLIP for Zero-Shot Semantic Segmentation", CVPR 2024, recovery decoder.
The paper calls it identical to the decoder; the released code has one layer where the decoder has three
(`model.recovery_layers`).
"""

from __future__ import annotations

import jittor as jt
from jittor import nn

from jseg.clip.blocks import Linear
from jseg.model.two_way_decoder import DecoderLayer, decode
from jseg.ops.half import widen


class RecoveryDecoder(nn.Module):
    """Linear layers around a two-way decoder; state names as released (`k` = pixels)."""

    def __init__(self, q_layers: list[DecoderLayer], v_layers: list[DecoderLayer], width: int) -> None:
        super().__init__()
        self.decouple_q = nn.ModuleList(q_layers)
        self.decouple_v = nn.ModuleList(v_layers)
        self.linear_q_in = Linear(width, width)
        self.linear_k_in = Linear(width, width)
        self.linear_q_out = Linear(width, 2 * width)
        self.linear_k_out = Linear(width, width)

    def execute(self, q: jt.Var, v: jt.Var) -> tuple[jt.Var, jt.Var]:
        """Decoded queries (B, M * C, D) and pixels (B, N, D) -> recovered (B, M * C, 2D) and (B, N, D)."""
        q, v = widen(self.linear_q_in(q)), widen(self.linear_k_in(v))
        q, v = decode(self.decouple_q, self.decouple_v, q, v)
        return widen(self.linear_q_out(q)), widen(self.linear_k_out(v))
