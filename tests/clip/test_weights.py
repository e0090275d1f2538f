"""CLIP weights from every container and naming come out equal; what is no whole CLIP is refused by name."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from jseg.clip.weights import FORMAT, clip_config_of, clip_shapes, image_config_of, read_clip_weights, text_config_of
from jseg.errors import UserError
from jseg.weights.reader import write_safetensors

SIZES = {
    "image_size": 24,
    "patch_size": 8,
    "image_width": 64,
    "image_layers": 2,
    "image_heads": 1,
    "context_length": 7,
    "vocab_size": 30,
    "text_width": 128,
    "text_layers": 11,
    "text_heads": 2,
    "output_dim": 16,
}


def clip_tensors() -> dict[str, np.ndarray]:
    """A CLIP of random numbers under OpenAI's names."""
    generator = np.random.default_rng(0)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in clip_shapes(SIZES).items()}


def save(path: Path, tensors: dict[str, np.ndarray], meta: dict | None = None) -> Path:
    write_safetensors(path / "clip.safetensors", tensors, meta or {})
    return path / "clip.safetensors"


@pytest.mark.parity
def test_recorded_files_convert_to_the_towers(golden: Path) -> None:
    """All of convert/ equal the recorded towers exactly; bfloat16 has lost bits: 1e-2."""
    (towers,) = sorted((golden / "torch_release").glob("clip_towers*.npz"))
    expected = {name.removeprefix("weight."): array for name, array in np.load(towers).items() if "weight." in name[:7]}
    files = [path for path in (golden / "torch_release" / "convert").iterdir() if path.suffix != ".json"]
    assert files
    for path in files:
        weights = read_clip_weights(path)
        assert weights.tensors.keys() == expected.keys(), path.name
        assert weights.names == ("Hugging Face" if path.name.startswith("hf") else "OpenAI")
        for name, array in expected.items():
            found = weights.tensors[name]
            assert found.dtype == np.float32 and found.shape == array.shape and found.flags.c_contiguous
            if "bf16" in path.name:
                np.testing.assert_allclose(found, array, atol=1e-2, err_msg=f"{path.name} {name}")
            else:
                assert np.array_equal(found, array), f"{path.name} {name}"


def test_sizes_are_read_off_the_arrays(tmp_path: Path) -> None:
    weights = read_clip_weights(save(tmp_path, clip_tensors()))
    assert weights.config == SIZES
    assert clip_config_of(weights.tensors) == SIZES
    text = {name: array for name, array in weights.tensors.items() if not name.startswith("visual.")}
    assert text_config_of(text).items() <= SIZES.items()
    image = {name: array for name, array in weights.tensors.items() if name.startswith("visual.")}
    assert image_config_of(image).items() <= SIZES.items()


def test_hugging_face_model_as_transformers_saves_it(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    common = {"projection_dim": 16, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 11, "vocab_size": 30,
                     "max_position_embeddings": 7, **common},
        vision_config={"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "image_size": 24,
                       "patch_size": 8, **common},
        projection_dim=16,
    )  # fmt: skip
    model = transformers.CLIPModel(config)
    model.save_pretrained(tmp_path)
    weights = read_clip_weights(tmp_path / "model.safetensors")
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert weights.names == "Hugging Face" and weights.config["text_layers"] == 11
    assert np.array_equal(weights.tensors["text_projection"], state["text_projection.weight"].T)
    assert np.array_equal(
        weights.tensors["visual.conv1.weight"], state["vision_model.embeddings.patch_embedding.weight"]
    )
    attention = "text_model.encoder.layers.10.self_attn."
    joined = np.concatenate([state[f"{attention}{part}_proj.weight"] for part in "qkv"])
    assert np.array_equal(weights.tensors["transformer.resblocks.10.attn.in_proj_weight"], joined)
    assert sum(array.size for array in weights.tensors.values()) == sum(p.numel() for p in model.parameters())


def test_open_clip_names(tmp_path: Path) -> None:
    tensors = clip_tensors()
    plain = tensors | {"attn_mask": np.zeros((7, 7), np.float32)}
    custom = {
        name if name.startswith(("visual.", "logit")) else f"text.{name}": array for name, array in tensors.items()
    }
    for state in (plain, custom, custom | {"text.attn_mask": np.zeros((7, 7), np.float32)}):
        weights = read_clip_weights(save(tmp_path, state))
        assert weights.names == "open_clip" and weights.tensors.keys() == tensors.keys()
        assert all(np.array_equal(weights.tensors[name], tensors[name]) for name in tensors)


def test_our_format_keeps_the_number_of_heads(tmp_path: Path) -> None:
    meta = {"format": FORMAT, "clip": {**SIZES, "image_heads": 4, "text_heads": 8}}
    assert read_clip_weights(save(tmp_path, clip_tensors(), meta)).config == meta["clip"]


def test_every_half_number_converts_exactly(tmp_path: Path) -> None:
    """Denormal halves included, although Jittor makes the processor flush denormal floats to zero."""
    pytest.importorskip("jittor")
    bits = np.arange(2**16, dtype=np.uint16)
    bits = bits[(bits & 0x7C00) != 0x7C00]  # no infinities, no NaN
    expected = np.array([struct.unpack("<e", struct.pack("<H", number))[0] for number in bits], np.float32)
    tensors = clip_tensors()
    tensors["token_embedding.weight"] = bits.view(np.float16).reshape(-1, 128)
    found = read_clip_weights(save(tmp_path, tensors)).tensors["token_embedding.weight"].ravel()
    assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))


def without(*names: str) -> dict[str, np.ndarray]:
    return {name: array for name, array in clip_tensors().items() if name not in names}


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        (without("ln_final.bias", "logit_scale"), "missing: ln_final.bias, logit_scale"),
        (without("visual.conv1.weight"), "visual.conv1.weight"),
        (without("transformer.resblocks.3.ln_1.bias"), "missing: transformer.resblocks.3.ln_1.bias"),
        (clip_tensors() | {"visual.extra": np.ones(2, np.float32)}, "unknown: visual.extra"),
        (clip_tensors() | {"logit_bias": np.ones((), np.float32)}, "unknown: logit_bias"),
        (clip_tensors() | {"ln_final.bias": np.ones(3, np.float32)}, r"another shape: ln_final.bias \(3,\) instead of"),
        (clip_tensors() | {"ln_final.bias": np.ones(128, np.int32)}, "no floats: ln_final.bias"),
        (clip_tensors() | {"visual.positional_embedding": np.ones((9, 64), np.float32)}, "9 positions"),
        (clip_tensors() | {"visual.conv1.weight": np.ones((64, 3, 0, 0), np.float32)}, "positions for patches of 0"),
        (clip_tensors() | {"visual.conv1.weight": np.ones((64, 3), np.float32)}, "visual.conv1.weight"),
        ({"visual.layer1.0.conv1.weight": np.ones(2, np.float32)}, "ResNet"),
        ({"backbone.conv1.weight": np.ones(2, np.float32)}, "CLIP-RC checkpoint"),
        ({"fc.weight": np.ones(2, np.float32)}, "fc.weight"),
    ],
)
def test_anything_but_a_whole_clip_is_refused(tmp_path: Path, tensors: dict, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        read_clip_weights(save(tmp_path, tensors))
    assert "clip.safetensors" in str(error.value)


def test_a_gap_in_the_layers_is_named(tmp_path: Path) -> None:
    tensors = {name.replace("visual.transformer.resblocks.0.", "visual.transformer.resblocks.900."): array
               for name, array in clip_tensors().items()}  # fmt: skip
    with pytest.raises(UserError, match=r"missing: visual.transformer.resblocks.0.*unknown: .*resblocks.900."):
        read_clip_weights(save(tmp_path, tensors))


@pytest.mark.parity
def test_hugging_face_file_without_a_part_is_refused(golden: Path, tmp_path: Path) -> None:
    from jseg.weights.reader import read_weight_file

    tensors = read_weight_file(golden / "torch_release" / "convert" / "hf_clip.safetensors").tensors
    name = "text_model.encoder.layers.1.self_attn.k_proj.bias"
    with pytest.raises(UserError, match=r"resblocks.1.attn.in_proj_bias the file lacks self_attn.k_proj"):
        read_clip_weights(save(tmp_path, {key: array for key, array in tensors.items() if key != name}))
    with pytest.raises(UserError, match="different shapes"):
        read_clip_weights(save(tmp_path, tensors | {name: np.ones(3, np.float32)}))
    vision = {key: array for key, array in tensors.items() if key.startswith("vision")}
    with pytest.raises(UserError, match=r"missing or misshapen are .*visual\.proj"):
        read_clip_weights(save(tmp_path, vision))
