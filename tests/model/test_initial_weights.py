"""What a model starts from."""

from collections.abc import Callable

import jittor as jt
import numpy as np
import pytest

from jseg.clip.image_tower import ImageTower, random_image_weights
from jseg.config import ModelConfig
from jseg.errors import UserError
from jseg.model.clip_rc import ClipRC, build_clip_rc
from jseg.model.initial_weights import initialise, load_clip_image_weights
from jseg.weights.state import state_arrays


def tower_weights(config: ModelConfig, image_size: int, seed: int = 5) -> dict[str, np.ndarray]:
    """Weights of a CLIP image tower under OpenAI's names."""
    tower = ImageTower(image_size, config.patch_size, config.width, config.layers, config.heads, config.output_dim)
    weights = random_image_weights(tower, np.random.default_rng(seed))
    return {f"visual.{name}": value for name, value in weights.items()}


def test_released_head_starts_from_uniform_copies(make_model: Callable[..., ClipRC]) -> None:
    state = state_arrays(make_model(decoder_layers=3, recovery_layers=2, output_dim=64).decode_head)
    for name, value in state.items():
        if name.endswith((".norm2.weight", ".norm3.weight")):
            assert (value == 1).all(), name
        elif ".norm" in name or (name.startswith("recovery") and name.endswith(".bias")):
            assert (value == 0).all(), name
        elif name.startswith("recovery"):
            assert 0.015 < value.std() < 0.025, name
        else:
            weight = state[name.removesuffix("bias") + "weight"] if name.endswith(".bias") else value
            bound = weight.shape[1] ** -0.5
            assert 0.8 * bound < np.abs(value).max() <= bound, name
    for name in (name for name in state if name.startswith(("decoder_q.layers.0.", "decoder_v.layers.0."))):
        for layer in "12":
            np.testing.assert_array_equal(state[name], state[name.replace(".0.", f".{layer}.", 1)])
    assert (state["decoder_q.layers.0.linear1.weight"] != state["decoder_v.layers.0.linear1.weight"]).any()
    recovery = "recovery_decoder.decouple_q.{}.linear1.weight"
    assert (state[recovery.format(0)] != state[recovery.format(1)]).any()  # no copies here


def test_aligned_head(make_model: Callable[..., ClipRC]) -> None:
    """Mask logits of mean log(0.02 / 0.98) and a spread of about 2, not of 0 and 8; T and I pass."""
    rng = np.random.default_rng(0)
    images = jt.array(rng.standard_normal((2, 3, 64, 64)).astype(np.float32))
    text = rng.standard_normal((5, 64)).astype(np.float32)
    text = jt.array(text / np.linalg.norm(text, axis=1, keepdims=True))
    models = {kind: make_model(output_dim=64, head_init=kind) for kind in ("aligned", "released")}
    logits = {kind: model(images, text).numpy() for kind, model in models.items()}
    assert abs(logits["aligned"].mean() + 3.89) < 2 and 0.5 < logits["aligned"].std() < 3
    assert abs(logits["released"]).max() > 2 * abs(logits["aligned"] - logits["aligned"].mean()).max()
    aligned, released = (state_arrays(models[kind]) for kind in ("aligned", "released"))
    norms = {f"decoder_{side}.layers.1.norm3.{part}" for side in "qv" for part in ("weight", "bias")}
    assert {key.removeprefix("decode_head.") for key, value in aligned.items() if (value != released[key]).any()} == {
        *norms, "q_proj.weight", "lateral_proj.weight",
    }  # fmt: skip
    for name in ("q_proj", "lateral_proj"):
        weight = aligned[f"decode_head.{name}.weight"]
        np.testing.assert_array_equal(weight[:, -64:], 8 * np.eye(64))
        np.testing.assert_array_equal(weight[:, :-64], released[f"decode_head.{name}.weight"][:, :-64])


def test_clip_weights_leave_prompts_and_head_alone(small_config: ModelConfig) -> None:
    model = build_clip_rc(small_config)
    initialise(model, small_config, seed=0)
    before, weights = state_arrays(model), tower_weights(small_config, 64)
    load_clip_image_weights(model, weights | {"logit_scale": np.float32(4.6), "ln_final.weight": np.ones(3)})
    after = state_arrays(model)
    for name, value in weights.items():
        np.testing.assert_array_equal(after[name.replace("visual.", "backbone.")], value)
    for name in after:
        if "prompt" in name or name.startswith("decode_head."):
            np.testing.assert_array_equal(after[name], before[name])
    token = weights["visual.class_embedding"] + weights["visual.positional_embedding"][0]
    np.testing.assert_array_equal(after["backbone.region_level_bridge"], np.tile(token, (4, 1)))
    assert model.backbone.conv1.weight.is_stop_grad()
    assert not model.backbone.prompt_embeddings.is_stop_grad()


def test_clip_weights_that_do_not_fit_are_refused(small_config: ModelConfig) -> None:
    weights = tower_weights(small_config, 64)
    del weights["visual.class_embedding"]
    with pytest.raises(UserError, match="missing: class_embedding"):
        load_clip_image_weights(build_clip_rc(small_config), weights)
