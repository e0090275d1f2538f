"""CLIP's text tower (https://github.com/openai/CLIP), with OpenAI's state names."""

from functools import partial

import jittor as jt
import numpy as np
from jittor import nn

from jseg.clip.blocks import LayerNorm, Trace, Transformer, normal, random_tower_weights, uniform
from jseg.errors import UserError
from jseg.ops.attention import self_attention


class TextTower(nn.Module):
    """Token ids -> embeddings."""

    def __init__(
        self, width: int, layers: int, heads: int, output_dim: int, context_length: int = 77, vocab_size: int = 49408
    ) -> None:
        super().__init__()
        self.context_length, self.vocab_size = context_length, vocab_size
        self.positional_embedding = jt.zeros((context_length, width))
        self.text_projection = jt.zeros((width, output_dim))
        self.transformer = Transformer(width, layers, heads)
        self.token_embedding, self.ln_final = nn.Embedding(vocab_size, width), LayerNorm(width)

    def execute(self, token_ids: np.ndarray | jt.Var, trace: Trace | None = None) -> jt.Var:
        """Embeddings of texts (N, output_dim), not normalised: the hidden state at the end-of-text token, projected.

        `token_ids`: (N, L) int32 with L <= context_length; the end-of-text token is the largest id of a row. In `trace`
        is left the last hidden state, `text_last_hidden` (N, L, width).
        """
        ids = np.asarray(token_ids.numpy() if isinstance(token_ids, jt.Var) else token_ids).astype(np.int32)
        count, length = ids.shape
        if length > self.context_length:
            raise UserError(f"texts of {length} tokens: this text tower takes at most {self.context_length}")
        if ids.size and (ids.min() < 0 or ids.max() >= self.vocab_size):
            raise UserError(f"token ids {ids.min()} to {ids.max()}: the text tower's vocabulary has {self.vocab_size}")
        x = self.token_embedding(jt.array(ids)) + self.positional_embedding[:length]
        x = self.ln_final(self.transformer(x, partial(self_attention, causal=True)))
        if trace is not None:
            trace["text_last_hidden"] = x
        last = jt.array((np.arange(count) * length + ids.argmax(axis=1)).astype(np.int32))
        return jt.matmul(x.reshape(count * length, -1)[last], self.text_projection)


def random_text_weights(tower: TextTower, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights as CLIP initialises its text tower, by state name: what an untrained tower starts from."""
    width, layers = tower.transformer.width, len(tower.transformer.resblocks)
    residual = width**-0.5 * (2 * layers) ** -0.5
    draws = {
        "positional_embedding": (normal, 0.01),
        "token_embedding.weight": (normal, 0.02),
        **dict.fromkeys(("text_projection", "attn.in_proj_weight"), (normal, width**-0.5)),
        **dict.fromkeys(("attn.out_proj.weight", "mlp.c_proj.weight"), (normal, residual)),
        "mlp.c_fc.weight": (normal, (2 * width) ** -0.5),
        "mlp.c_fc.bias": (uniform, width**-0.5),
        "mlp.c_proj.bias": (uniform, (4 * width) ** -0.5),
    }
    return random_tower_weights(tower, draws, generator)
