"""PyTorch's files against PyTorch itself: every layout of tensors, every container, and files that lie."""

import io
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jseg.errors import UserError
from jseg.weights.pickles import Storage, Tensor
from jseg.weights.reader import read_weight_file

torch = pytest.importorskip("torch", reason="PyTorch is the oracle of these tests")

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
TYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
LEGACY = {"_use_new_zipfile_serialization": False}


def many_layouts() -> dict[str, Any]:
    """Tensors of all types and layouts that state dictionaries hold."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    numbers = torch.arange(-5, 5)
    return {
        **{f"type.{name}": numbers.to(getattr(torch, name)) for name in TYPES},
        **{"transposed": base.T, "step": base[::2, ::3], "row": base[2], "shared": base, "again": base},
        "expanded": torch.tensor([1.0, 2.0]).expand(3, 2),
        **{"scalar": torch.tensor(2.5), "scalar.in_storage": base[1, 2], "empty": torch.zeros(0, 3)},
        "parameter": torch.nn.Parameter(base[:2]),
        "permuted": torch.arange(120, dtype=torch.float16).reshape(2, 3, 4, 5).permute(3, 1, 0, 2),
        "bfloat16.slice": torch.linspace(-3, 3, 40).to(torch.bfloat16).reshape(5, 8)[1:4, ::2],
    }


def check_equal(arrays: dict[str, np.ndarray], tensors: dict[str, Any]) -> None:
    assert arrays.keys() == tensors.keys()
    for name, tensor in tensors.items():
        expected = (tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()).numpy()
        assert arrays[name].dtype == expected.dtype and arrays[name].shape == expected.shape, name
        assert np.array_equal(arrays[name], expected), name
        assert arrays[name].flags.c_contiguous and arrays[name].flags.writeable, name


@pytest.mark.parametrize("options", [{}, LEGACY])
def test_every_layout_of_tensors(tmp_path: Path, options: dict) -> None:
    tensors = many_layouts()
    torch.save(tensors, tmp_path / "weights.pth", **options)
    file = read_weight_file(tmp_path / "weights.pth")
    check_equal(file.tensors, tensors)
    assert file.kind == ("old torch file" if options else "torch archive")
    file.tensors["shared"][:] = -1  # arrays own their numbers even where the file shared them
    assert file.tensors["again"].max() == 23


def test_all_half_numbers_survive(tmp_path: Path) -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    half = torch.from_numpy(bits.view(np.float16).copy())
    brain = torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16)
    torch.save({"half": half, "bfloat16": brain}, tmp_path / "weights.pth")
    arrays = read_weight_file(tmp_path / "weights.pth").tensors
    assert np.array_equal(arrays["half"].view(np.uint16), bits)
    assert np.array_equal(arrays["bfloat16"].view(np.uint32) >> 16, bits)  # as bits: NaNs and denormals included


@pytest.mark.parametrize("options", [{}, LEGACY])
def test_module_state_with_training_extras(tmp_path: Path, options: dict) -> None:
    """What mmcv writes: meta, state_dict with the attribute `_metadata`, optimiser state."""
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(5, 3)).sum().backward()
    optimizer.step()
    meta = {"CLASSES": ("cat", "dog"), "PALETTE": [[1, 2, 3]], "iter": 40000, "best": np.float64(0.25),
            "hook_msgs": {"last": np.int64(7), "flag": np.bool_(True)}}  # fmt: skip
    content = {"meta": meta, "state_dict": module.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    torch.save(content, tmp_path / "iter_40000.pth", **options)
    file = read_weight_file(tmp_path / "iter_40000.pth")
    check_equal(file.tensors, dict(module.state_dict()))
    assert file.meta == {"CLASSES": ("cat", "dog"), "iter": 40000, "best": 0.25, "epoch": 3}


@pytest.mark.parametrize("compiler", ["script", "trace"])
def test_torchscript_archives(tmp_path: Path, compiler: str) -> None:
    inner = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    module = torch.nn.Sequential(inner, torch.nn.Linear(2, 2)).eval()
    script = torch.jit.script(module) if compiler == "script" else torch.jit.trace(module, torch.ones(4, 3))
    script.save(str(tmp_path / "model.pt"))
    file = read_weight_file(tmp_path / "model.pt")
    check_equal(file.tensors, dict(module.state_dict()))
    assert file.kind == "TorchScript archive"


def refused(path: Path, match: str) -> None:
    with pytest.raises(UserError, match=match) as error:
        read_weight_file(path)
    assert str(error.value).isprintable() and path.name in str(error.value)


def test_archives_that_lie_are_refused(tmp_path: Path) -> None:
    path, buffer = tmp_path / "weights.pth", io.BytesIO()
    torch.save({"w": torch.arange(32.0), "v": torch.ones(4)}, buffer)
    for entry, change, kind, match in (
        ("data/0", lambda data: data[:-4], zipfile.ZIP_STORED, "smaller than requested"),
        ("data.pkl", lambda data: data.replace(b"K \x85", b"K!\x85"), zipfile.ZIP_STORED, "element 32 of"),
        ("data.pkl", lambda data: data + b"\0" * 2**27, zipfile.ZIP_DEFLATED, "compressed entry"),
    ):
        with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w") as target:
            for name in source.namelist():
                changed, content = name.endswith(entry), source.read(name)
                target.writestr(name, change(content) if changed else content, kind if changed else zipfile.ZIP_STORED)
        refused(path, match)
    content = bytearray(buffer.getvalue())
    content[content.index(struct.pack("<3f", 5, 6, 7))] ^= 1
    path.write_bytes(content)
    refused(path, "CRC")
    torch.save({"w": torch.ones(1).expand(2**20, 2**20)}, path)  # one number expanded to terabytes
    refused(path, "many times the size")


@pytest.mark.parametrize("numbers", [(0, ([0], 10**10), (1, 1)), (-1, (2,), (1,)), (0, (2,), (1, 1))])
def test_tensors_described_by_other_things_than_counts_allocate_nothing(numbers: tuple) -> None:
    with pytest.raises(UserError, match="no counts"):
        Tensor(Storage(np.dtype("<f4"), 4), *numbers)


@pytest.mark.parametrize("options", [{}, LEGACY])
def test_malicious_files_are_refused_by_name(tmp_path: Path, options: dict) -> None:
    trap = tmp_path / "trap"
    evil = type("Evil", (), {"__reduce__": lambda _: (os.system, (f"touch {trap}",))})()
    torch.save({"state_dict": {"w": torch.ones(2)}, "meta": evil}, tmp_path / "evil.pth", **options)
    refused(tmp_path / "evil.pth", f"asks for {os.name}.system")
    assert not trap.exists()


@pytest.mark.parametrize("value", ["text", {"state_dict": {"a": 1}}, {"a": [torch.ones(1)]}])
def test_files_without_weights_are_refused(tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "weights.pth")
    refused(tmp_path / "weights.pth", "no tensors|expected")
