"""The whole model: recorded logits, training outputs and gradients; names; what trains; modes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jittor as jt
import numpy as np
import pytest

from jseg.config import LossConfig, ModelConfig
from jseg.errors import UserError
from jseg.model.clip_rc import ClipRC, build_clip_rc, set_training, trainable
from jseg.model.image_encoder import ImageFeatures
from jseg.model.losses import SegmentationLoss, TrainingOutputs
from jseg.ops.bilinear import resize_bilinear
from jseg.weights.state import set_value, state_arrays, strict_load

FIELDS = {  # recorded name -> field of TrainingOutputs
    "q": "recovered_queries",
    "ori_q": "query_targets",
    "lateral": "recovered_pixels",
    "ori_lateral": "pixel_targets",
}


def random_images(*shape: int) -> jt.Var:
    return jt.array(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


def random_text(classes: int, depth: int = 16) -> jt.Var:
    text = np.random.default_rng(1).standard_normal((classes, depth)).astype(np.float32)
    return jt.array(text / np.linalg.norm(text, axis=1, keepdims=True))


@pytest.mark.parity
def test_recorded_logits_and_intermediates(recorded_models: list) -> None:
    for recorded in recorded_models:
        file = recorded.file("forward_eval")
        if file is None:
            continue
        trace: dict[str, jt.Var] = {}
        with jt.no_grad():
            logits = recorded.build()(jt.array(file["image"]), jt.array(file["text_feat"]), trace)
            upsampled = resize_bilinear(logits, file["image"].shape[2:]).numpy()
            computed = {name: value.numpy() for name, value in trace.items()}
        layers = recorded.values["decoder_layers"]
        names = ["ram_q", "q0", "ram_v", "v0", *(f"{side}{i + 1}" for side in "qv" for i in range(layers))]
        for name in names:
            np.testing.assert_allclose(computed[name], file[name], atol=1e-4, rtol=0, err_msg=f"{recorded.tag} {name}")
        np.testing.assert_allclose(logits.numpy(), file["logits_grid"], atol=2e-4, rtol=0)
        np.testing.assert_allclose(upsampled[:, :, ::4, ::4], file["logits_up_s4"], atol=2e-4, rtol=0)


@pytest.mark.parity
def test_recorded_head_of_the_jittor_release(golden: Path) -> None:
    paths = sorted((golden / "jseg_release").glob("head_*.npz"))
    assert paths
    for path in paths:
        file = np.load(path)
        values = json.loads(str(file["cfg"]))
        side = file["in/region"].shape[-1]
        config = ModelConfig(
            width=8,
            layers=1,
            heads=1,
            output_dim=values["channels"],
            region_grid=side,
            decoder_layers=values["num_layers"],
            decoder_heads=values["num_heads"],
            recovery_layers=values["recovery_decoder_num_layers"],
        )
        head = build_clip_rc(config).decode_head
        strict_load(head, {name[2:]: file[name] for name in file.files if name.startswith("w/")})
        maps, regions = file["in/feat"], file["in/region"]
        features = ImageFeatures(
            jt.array(file["in/glob"]), as_tokens(regions), as_tokens(maps), maps.shape[2:], regions.shape[2:]
        )
        for prefix, ids in (("train", values["all_idx"]), ("trainseen", values["seen_idx"])):
            outputs = head.training_outputs(features, jt.array(file["in/text"][ids]))
            recorded = {name: file[f"out/{prefix}_{name}"] for name in (*FIELDS, "pred_masks")}
            logits = resize_bilinear(outputs.logits_grid, recorded["pred_masks"].shape[2:]).numpy()
            np.testing.assert_allclose(logits, recorded["pred_masks"], atol=1e-4, rtol=1e-4)
            compare_outputs(outputs, recorded, 1e-4)


def as_tokens(maps: np.ndarray) -> jt.Var:
    """(B, D, h, w) -> (B, h * w, D)"""
    return jt.array(np.ascontiguousarray(maps.reshape(*maps.shape[:2], -1).transpose(0, 2, 1)))


def compare_outputs(outputs: TrainingOutputs, recorded: dict[str, np.ndarray], tolerance: float) -> None:
    for name, field in FIELDS.items():
        np.testing.assert_allclose(
            getattr(outputs, field).numpy(), recorded[name], atol=tolerance, rtol=0, err_msg=name
        )


@pytest.mark.parity
@pytest.mark.parametrize("setting", ["inductive", "transductive", "full"])
def test_recorded_gradients_of_everything_that_trains(recorded_models: list, setting: str) -> None:
    """Within 1e-4 of the largest element of each gradient; key biases have no gradient but rounding."""
    for recorded in recorded_models:
        file, batch = recorded.file(f"train_{setting}"), recorded.file("train_batch")
        if file is None:
            continue
        model, size = recorded.build(), batch["image"].shape[2:]
        text = batch["text_feat"][recorded.values["seen"]] if setting == "inductive" else batch["text_feat"]
        for prefix in sorted({name.split("grad.")[0] for name in file if "grad." in name}):
            mask, dice, recovery = map(float, file[f"weights_{prefix[:-1]}" if prefix else "weights"])
            labels = file[f"{prefix}labels_used"][:, 0].astype(np.int32)
            outputs = model.training_outputs(jt.array(batch["image"]), jt.array(text))
            if "out.q" in file:
                compare_outputs(outputs, {name: file[f"out.{name}"] for name in FIELDS}, 1e-4)
            loss = SegmentationLoss(LossConfig(mask=mask, dice=dice, recovery=recovery))
            sums = loss.sums(outputs, labels, size)
            total = loss.total(sums, float(sums.num_masks.item()))
            np.testing.assert_allclose(total.item(), file[f"{prefix}loss.total"], rtol=2e-5)
            names, weights = zip(*trainable(model), strict=True)
            for name, gradient in zip(names, jt.grad(total, list(weights)), strict=True):
                check_gradient(f"{recorded.tag} {prefix}{name}", gradient.numpy(), file.get(f"{prefix}grad.{name}"))


def check_gradient(name: str, gradient: np.ndarray, recorded: np.ndarray | None) -> None:
    if name.endswith("multihead_attn.k.bias"):
        assert np.abs(gradient).max() < 1e-4, name
    elif recorded is None:  # recorded only where it is not zero
        assert "recovery_decoder" in name
        assert np.abs(gradient).max() == 0, name
    else:
        np.testing.assert_allclose(gradient, recorded, atol=1e-4 * np.abs(recorded).max(), rtol=0, err_msg=name)


@pytest.mark.parity
def test_names_and_shapes_of_the_released_models(golden: Path) -> None:
    paths = sorted((golden / "jseg_release").glob("state_dict_full*.json"))
    if not paths:
        pytest.skip("no jseg_release/state_dict_full*.json in the golden folder")
    for path in paths:
        for dataset, state in json.loads(path.read_text()).items():
            state = {n: tuple(s) for n, s in state.items() if n.startswith(("backbone.", "decode_head."))}
            state = {name: shape for name, shape in state.items() if not name.endswith("attn_mask")}
            prompts = state["backbone.prompt_embeddings"][1]
            model = build_clip_rc(ModelConfig(prompts=prompts))
            assert {n: tuple(v.shape) for n, v in model.state_dict().items()} == state, dataset


@pytest.mark.parity
def test_what_trains_is_what_the_released_models_train(recorded_models: list) -> None:
    compared = 0
    for recorded in recorded_models:
        file = recorded.file("train_inductive")
        if file is None:
            continue
        expected = json.loads(str(file["trainable_live_json"]))
        model = recorded.build()
        assert sorted(name for name, _ in trainable(model)) == sorted(expected)
        compared += 1
    assert compared


def test_frozen_weights_stay_frozen(small_model: ClipRC) -> None:
    set_training(small_model, True)
    set_training(small_model, False)
    names = {name for name, _ in trainable(small_model)}
    for name, var in small_model.state_dict().items():
        assert var.is_stop_grad() == (name not in names), name
    assert "backbone.region_level_bridge" not in names
    assert "backbone.prompt_norm.weight" in names
    assert "backbone.proj" not in names


def test_gradients_flow_through_the_frozen_tower(small_model: ClipRC) -> None:
    loss = (small_model(random_images(1, 3, 64, 64), random_text(3)) ** 2).sum()
    first = jt.grad(loss, small_model.backbone.prompt_embeddings).numpy()
    assert np.abs(first).max() > 0


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (64, 96), (80, 48)])
@pytest.mark.parametrize("classes", [1, 7])
def test_logits_of_any_size_and_class_count(small_model: ClipRC, size: tuple[int, int], classes: int) -> None:
    logits = small_model(random_images(2, 3, *size), random_text(classes))
    assert tuple(logits.shape) == (2, classes, size[0] // 16, size[1] // 16)
    assert tuple(resize_bilinear(logits, size).shape) == (2, classes, *size)
    assert np.isfinite(logits.numpy()).all()


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_logits_are_the_mean_over_regions(make_model: Callable[..., ClipRC], side: int) -> None:
    model, trace = make_model(region_grid=side), {}
    logits = model(random_images(1, 3, 64, 96), random_text(5), trace).numpy()
    q, v = trace["q2"].numpy()[0], trace["v2"].numpy()[0]
    masks = (q @ v.T).reshape(side * side, 5, 4, 6)
    np.testing.assert_allclose(logits[0], masks.mean(0), atol=1e-4)


def test_classes_only_meet_in_the_decoder(small_model: ClipRC) -> None:
    """The order of classes is the order of the masks."""
    images, text = random_images(1, 3, 64, 64), random_text(4)
    order = np.array([2, 0, 3, 1])
    straight = small_model(images, text).numpy()
    shuffled = small_model(images, jt.array(text.numpy()[order])).numpy()
    np.testing.assert_allclose(shuffled, straight[:, order], atol=1e-4)


def test_training_mode_switches_dropout_and_nothing_else(small_model: ClipRC) -> None:
    images, text = random_images(1, 3, 64, 64), random_text(3)
    before = state_arrays(small_model)
    still = small_model(images, text).numpy()
    set_training(small_model, True)
    draws = []
    for seed in (1, 1, 2):
        jt.set_global_seed(seed)
        draws.append(small_model(images, text).numpy())
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).max() > 1e-3
    set_training(small_model, False)
    np.testing.assert_array_equal(small_model(images, text).numpy(), still)
    for name, value in state_arrays(small_model).items():
        np.testing.assert_array_equal(value, before[name])


def test_images_of_a_batch_get_their_own_dropout(small_model: ClipRC) -> None:
    image = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    set_training(small_model, True)
    logits = small_model(jt.array(np.concatenate([image, image])), random_text(3)).numpy()
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_gradients_equal_finite_differences(small_model: ClipRC) -> None:
    """Along a random direction in all trained weights: an oracle that knows neither the release nor our formulae."""
    images, text = random_images(1, 3, 64, 64), random_text(3)
    weights = [var for _, var in trainable(small_model)]
    generator = np.random.default_rng(2)
    directions = [generator.standard_normal(tuple(var.shape)).astype(np.float32) for var in weights]
    start = [var.numpy() for var in weights]

    def loss() -> jt.Var:
        return jt.sigmoid(small_model(images, text)).mean()

    gradients = jt.grad(loss(), weights)
    slope = sum(float((g.numpy() * d).sum()) for g, d in zip(gradients, directions, strict=True))
    values, step = [], 1e-3
    for sign in (1, -1):
        for var, value, direction in zip(weights, start, directions, strict=True):
            set_value(var, value + sign * step * direction)
        values.append(loss().item())
    np.testing.assert_allclose((values[0] - values[1]) / (2 * step), slope, rtol=0.05, atol=1e-3)
    assert abs(slope) > 1e-2


@pytest.mark.parametrize("shape", [(3, 15), (16,)])
def test_text_of_another_width_is_refused(small_model: ClipRC, shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"expected \(classes, 16\)"):
        small_model(random_images(1, 3, 64, 64), jt.ones(shape))
