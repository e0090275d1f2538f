"""Taking over released checkpoints."""

from dataclasses import replace

import jittor as jt
import numpy as np
import pytest

from jseg.clip.image_tower import resize_positions
from jseg.config import ModelConfig
from jseg.errors import UserError
from jseg.model.clip_rc import ClipRC, build_clip_rc
from jseg.model.released_weights import load_released
from jseg.weights.state import state_arrays

DEAD = {
    "decode_head.decoder_q.layers.0.self_attn.in_proj_weight": np.ones((48, 16)),
    "decode_head.decoder_v.layers.1.norm1.bias": np.ones(16),
    "decode_head.recovery_decoder.decouple_q.0.self_attn.out_proj.bias": np.ones(16),
}
ELSEWHERE = {
    "backbone.transformer.resblocks.0.attn_mask": np.ones((3, 3)), "texts": np.ones(3, np.int32),
    "text_encoder.transformer.resblocks.0.attn_mask": np.ones((3, 3)), "text_encoder.ln_final.weight": np.ones(3),
}  # fmt: skip


def test_dead_weights_are_dropped_and_reported(small_model: ClipRC, small_config: ModelConfig) -> None:
    tensors, fresh = state_arrays(small_model), build_clip_rc(small_config)
    (note,) = load_released(fresh, tensors | DEAD | ELSEWHERE)
    assert note.startswith(f"{len(DEAD)} weights that no computation uses") and next(iter(DEAD)) in note
    for name, value in state_arrays(fresh).items():
        np.testing.assert_array_equal(value, tensors[name])


def test_positions_of_another_grid_are_resized_and_reported(small_model: ClipRC, small_config: ModelConfig) -> None:
    larger, tensors = build_clip_rc(replace(small_config, image_size=96)), state_arrays(small_model)
    report = load_released(larger, tensors)
    assert report == ["backbone.positional_embedding is resized from 4x4 to 6x6 patches"]
    expected = resize_positions(jt.array(tensors["backbone.positional_embedding"]), (6, 6)).numpy()
    np.testing.assert_array_equal(larger.backbone.positional_embedding.numpy(), expected)


@pytest.mark.parametrize(("change", "message"), [
    ({"decode_head.lateral_proj.self_attn.bias": np.ones(1)}, "unknown: decode_head.lateral_proj.self_attn.bias"),
    ({"backbone.positional_embedding": np.ones((18, 32))}, "positional embedding of 18 rows"),
])  # fmt: skip
def test_what_does_not_fit_is_told(small_model: ClipRC, small_config: ModelConfig, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_released(build_clip_rc(small_config), state_arrays(small_model) | change)
