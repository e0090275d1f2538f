"""Choosing the reader by content, and what all kinds of files share."""

from __future__ import annotations

import hashlib
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from jseg.errors import UserError
from jseg.weights.reader import read_weight_file, sha256_of_file, write_safetensors

KINDS = {
    "torchscript_*": "TorchScript archive",
    "*_zip*": "torch archive",
    "*_wrapped_*": "torch archive",
    "*_legacy_*": "old torch file",
    "*.safetensors": "safetensors",
}


def convert_files(golden: Path) -> list[Path]:
    files = [path for path in sorted((golden / "torch_release" / "convert").iterdir()) if path.suffix != ".json"]
    assert files
    return files


@pytest.mark.parity
def test_recorded_files_of_every_kind(golden: Path) -> None:
    for path in convert_files(golden):
        file = read_weight_file(path)
        expected = [kind for pattern, kind in KINDS.items() if path.match(pattern)]
        assert file.kind in expected, path.name
        assert len(file.tensors) > 50 and file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parity
def test_names_do_not_matter(golden: Path, tmp_path: Path) -> None:
    for path in convert_files(golden):
        copy = tmp_path / "weights"
        copy.write_bytes(path.read_bytes())
        assert read_weight_file(copy).kind == read_weight_file(path).kind


@pytest.mark.parity
def test_damaged_copies_are_refused_or_read_whole(golden: Path, tmp_path: Path) -> None:
    """Byte flips and cuts end in one line or in arrays, never in another exception; seeded, 40 tries a file."""
    generator = random.Random(0)
    for path in convert_files(golden):
        content = path.read_bytes()
        for _ in range(40):
            damaged = bytearray(content)
            for _ in range(generator.choice((1, 3, 20))):
                region = generator.choice((len(damaged), 12_000, 300))
                place = generator.randrange(min(region, len(damaged)))
                damaged[place if generator.random() < 0.7 else -1 - place] = generator.choice((0, 255, 128, 65))
            if generator.random() < 0.2:
                del damaged[generator.randrange(len(damaged)) :]
            copy = tmp_path / path.name
            copy.write_bytes(damaged)
            try:
                read_weight_file(copy)
            except UserError as error:
                assert str(error).isprintable() and len(str(error)) < 700


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x02", b"weights are not text" * 9, b"\x93NUMPY" + b"\0" * 99])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"weight file .*weights.pth is refused"):
        read_weight_file(tmp_path / "weights.pth")


def test_missing_files_and_folders_are_user_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "no.pth", tmp_path):
        with pytest.raises(UserError, match="does not exist"):
            read_weight_file(path)


def test_common_prefix_is_dropped_from_safetensors_too(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "a.safetensors", {"module.w": np.ones(2), "module.v": np.ones(2)}, {})
    assert sorted(read_weight_file(tmp_path / "a.safetensors").tensors) == ["v", "w"]


def test_sha256_of_a_file_larger_than_one_block(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert sha256_of_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_reading_imports_neither_torch_nor_jittor() -> None:
    import subprocess

    code = "import sys, jseg.weights.reader, jseg.clip.weights, jseg.clip.tokenizer, jseg.clip.class_embeddings\n"
    code += "print([name for name in ('torch', 'jittor') if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
