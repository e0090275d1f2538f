"""The two-way decoder, in which class queries attend to pixels and pixels to class queries, and the recovery decoder.

The recovery decoder predicts the input features of the decoder from its outputs, in training only. The paper calls it
identical to the decoder; the released code has one layer where the decoder has three (`model.recovery_layers`).
"""

from __future__ import annotations

import jittor as jt
from jittor import nn

from jseg.clip.blocks import Dropout, LayerNorm, Linear, Trace
from jseg.errors import UserError
from jseg.ops.attention import cross_attention
from jseg.ops.half import widen


class CrossAttention(nn.Module):
    """Attention of one side to the other, with biased projections and dropout on the weights."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise UserError(f"model.decoder_heads={heads}: must divide model.output_dim={width}")
        self.heads = heads
        self.q, self.k, self.v, self.proj = (Linear(width, width) for _ in range(4))
        self.weight_dropout = Dropout(dropout)

    def execute(self, x: jt.Var, memory: jt.Var) -> jt.Var:
        """x (B, Tx, width) attends to memory (B, Tm, width)."""
        q, k, v = self.q(x), self.k(memory), self.v(memory)
        return self.proj(cross_attention(q, k, v, self.heads, self.weight_dropout.rate_now()))


class DecoderLayer(nn.Module):
    """Cross-attention and MLP, each added to its input and normalised after."""

    def __init__(self, width: int, heads: int, ffn_factor: int, dropout: float, eps: float = 1e-5) -> None:
        super().__init__()
        self.linear1 = Linear(width, ffn_factor * width)
        self.linear2 = Linear(ffn_factor * width, width)
        self.norm2 = LayerNorm(width, eps)
        self.norm3 = LayerNorm(width, eps)
        self.multihead_attn = CrossAttention(width, heads, dropout)
        self.dropout = Dropout(dropout)

    def execute(self, x: jt.Var, memory: jt.Var) -> jt.Var:
        """x (B, Tx, width) with memory (B, Tm, width) -> (B, Tx, width)."""
        x = self.norm2(x + widen(self.dropout(self.multihead_attn(x, memory))))
        inner = self.dropout(self.linear1(x, activation="relu"))
        return self.norm3(x + widen(self.dropout(self.linear2(inner))))


class DecoderSide(nn.Module):
    """The layers of one side; the name `layers` is part of the released state names."""

    def __init__(self, layers: list[DecoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


def decode(
    q_layers: nn.ModuleList, v_layers: nn.ModuleList, q: jt.Var, v: jt.Var, trace: Trace | None = None
) -> tuple[jt.Var, jt.Var]:
    """Queries (B, M * C, D) and pixels (B, N, D) through all layers; each layer updates both from the old values."""
    for index, (q_layer, v_layer) in enumerate(zip(q_layers, v_layers, strict=True), start=1):
        q, v = q_layer(q, v), v_layer(v, q)
        if trace is not None:
            trace[f"q{index}"], trace[f"v{index}"] = q, v
    return q, v


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
