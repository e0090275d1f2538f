"""CLIP weights from every container and naming come out equal; what is no whole CLIP is refused by name."""

import struct
from pathlib import Path

import jittor as jt
import numpy as np
import pytest

from jseg.clip.weights import FORMAT, read_clip_weights
from jseg.errors import UserError
from jseg.weights.reader import write_safetensors
from tests.small_weights import clip_tensors
from tools import convert_weights

SIZES = {"image_size": 24, "patch_size": 8, "image_width": 64, "image_layers": 2, "image_heads": 1, "context_length": 7,
         "vocab_size": 30, "text_width": 128, "text_layers": 11, "text_heads": 2, "output_dim": 16}  # fmt: skip


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
    patches = state["vision_model.embeddings.patch_embedding.weight"]
    assert np.array_equal(weights.tensors["visual.conv1.weight"], patches)
    attention = "text_model.encoder.layers.10.self_attn."
    joined = np.concatenate([state[f"{attention}{part}_proj.weight"] for part in "qkv"])
    assert np.array_equal(weights.tensors["transformer.resblocks.10.attn.in_proj_weight"], joined)
    assert sum(array.size for array in weights.tensors.values()) == sum(p.numel() for p in model.parameters())


def test_open_clip_names(tmp_path: Path) -> None:
    tensors = clip_tensors(SIZES)
    plain = tensors | {"attn_mask": np.zeros((7, 7), np.float32)}
    custom = {name if name[:6] in ("visual", "logit_") else f"text.{name}": array for name, array in tensors.items()}
    for state in (plain, custom, custom | {"text.attn_mask": np.zeros((7, 7), np.float32)}):
        weights = read_clip_weights(save(tmp_path, state))
        assert weights.names == "open_clip" and weights.tensors.keys() == tensors.keys()
        assert all(np.array_equal(weights.tensors[name], tensors[name]) for name in tensors)


def test_every_half_number_converts_exactly(tmp_path: Path) -> None:
    """Denormal halves included, although Jittor makes the processor flush denormal floats to zero."""
    pytest.importorskip("jittor")
    bits = np.arange(2**16, dtype=np.uint16)
    bits = bits[(bits & 0x7C00) != 0x7C00]  # no infinities, no NaN
    expected = np.array([struct.unpack("<e", struct.pack("<H", number))[0] for number in bits], np.float32)
    tensors = clip_tensors(SIZES)
    tensors["token_embedding.weight"] = bits.view(np.float16).reshape(-1, 128)
    found = read_clip_weights(save(tmp_path, tensors)).tensors["token_embedding.weight"].ravel()
    assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))


def test_sizes_are_read_off_the_arrays(tmp_path: Path) -> None:
    assert read_clip_weights(save(tmp_path, clip_tensors(SIZES))).config == SIZES
    meta = {"format": FORMAT, "clip": {**SIZES, "image_heads": 4, "text_heads": 8}}  # our files state the heads
    assert read_clip_weights(save(tmp_path, clip_tensors(SIZES), meta)).config == meta["clip"]


@pytest.mark.parametrize(("change", "match"), [
    ({"visual.conv1.weight": np.ones((64, 3), np.float32)}, "missing or misshapen"),
    ({"token_embedding.weight": None}, "token_embedding.weight"),
    ({"visual.positional_embedding": None, "backbone.x": np.ones(2, np.float32)}, "CLIP-RC checkpoint"),
])  # fmt: skip
def test_arrays_that_tell_no_sizes_are_refused(tmp_path: Path, change: dict, match: str) -> None:
    tensors = {name: array for name, array in (clip_tensors(SIZES) | change).items() if array is not None}
    with pytest.raises(UserError, match=rf"clip\.safetensors.*{match}"):
        read_clip_weights(save(tmp_path, tensors))


def test_clip_for_jittor_in_its_three_forms(tmp_path: Path) -> None:
    """Arrays, Vars (which have no scalars, and may carry a mask per block), and PyTorch's tensors."""
    import torch

    tensors, path = clip_tensors(SIZES), str(tmp_path / "ViT-B-16.pkl")
    masks = {f"transformer.resblocks.{i}.attn_mask": np.zeros((5, 5), np.float32) for i in range(2)}
    for make in (lambda x: x, lambda x: jt.array(x), lambda x: torch.from_numpy(x)):
        whole = {**tensors, **masks, "context_length": np.array(7)}
        jt.save({name: make(np.array(x)) for name, x in whole.items()}, path)
        found = read_clip_weights(path)
        assert found.tensors.keys() == tensors.keys() and found.names == "OpenAI"
        for name, array in tensors.items():
            assert found.tensors[name].shape == array.shape and np.array_equal(found.tensors[name], array), name
        convert_weights.main([path])  # whole, by its own check
