"""Taking over the weights of a CLIP-RC checkpoint: the released ones, or our own under the same names."""

import re
from collections.abc import Mapping

import jittor as jt
import numpy as np

from jseg.clip.image_tower import resize_positions, side_of_grid
from jseg.model.clip_rc import ClipRC
from jseg.weights.state import strict_load

POSITIONS = "backbone.positional_embedding"
# a self-attention that the decoder declares and never runs
DEAD = re.compile(r"decode_head\.(decoder_[qv]\.layers|recovery_decoder\.decouple_[qv])\.\d+\.(self_attn|norm1)\.")
ELSEWHERE = re.compile(r"(.*\.)?attn_mask$|text_encoder\.|texts$")  # rebuilt, or read by jseg/clip


def load_released(model: ClipRC, tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Sets every weight of the model from arrays under the released names; nothing is changed unless all match.

    Returns lines about weights that were left out (dead ones) or resized (positional embedding of another grid).
    """
    dead = [name for name in tensors if DEAD.match(name)]
    notes = [f"{len(dead)} weights that no computation uses were dropped ({dead[0]}, …)"] if dead else []
    taken = {name: np.asarray(x) for name, x in tensors.items() if not (DEAD.match(name) or ELSEWHERE.match(name))}
    own, stored = model.backbone.positional_embedding, taken.get(POSITIONS)
    if stored is not None and stored.ndim == 2 and stored.shape[0] != own.shape[0] and stored.shape[1] == own.shape[1]:
        there, here = side_of_grid(stored), side_of_grid(own)
        taken[POSITIONS] = resize_positions(jt.array(stored.astype(np.float32)), (here, here)).numpy()
        notes.append(f"{POSITIONS} is resized from {there}x{there} to {here}x{here} patches")
    strict_load(model, taken, "these weights")
    return notes
