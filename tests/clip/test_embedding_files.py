"""Files of class embeddings: used as they are, and refused when they are for other classes or other templates."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from jseg.clip.class_embeddings import (
    COCO_TEMPLATES,
    VOC_TEMPLATES,
    read_embedding_file,
    read_embeddings,
    write_embeddings,
)
from jseg.data.class_names import class_list
from jseg.errors import UserError
from jseg.weights.reader import read_weight_file, write_safetensors

VOC, COCO, SHAPES = class_list("voc12"), class_list("coco_stuff"), class_list("shapes")


def rows(count: int = 20, length: int = 8) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal((count, length)) * 3).astype(np.float16)


def test_files_are_used_as_they_are(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", rows())
    write_embeddings(tmp_path / "a.safetensors", rows(), VOC.names, VOC_TEMPLATES, "ab" * 32, VOC)
    for name in ("a.npy", "a.safetensors"):
        found, warnings = read_embeddings(tmp_path / name, VOC, 8, VOC_TEMPLATES)
        assert found.dtype == np.float32 and np.array_equal(found, rows().astype(np.float32))
        assert [name in line and "taken to be voc12's" in line for line in warnings] == [True] * (name == "a.npy")


def test_what_a_file_of_ours_says(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "a.safetensors", rows(), VOC.names, VOC_TEMPLATES, "ab" * 32, VOC)
    meta = read_weight_file(tmp_path / "a.safetensors").meta
    assert meta["names"] == list(VOC.names) and meta["templates"] == list(VOC_TEMPLATES)
    assert meta["weights_sha256"] == "ab" * 32 and meta["dataset"] == "voc12"
    write_embeddings(tmp_path / "own.safetensors", rows(2), ["cat", "dog"], VOC_TEMPLATES, "ab" * 32)
    file = read_embedding_file(tmp_path / "own.safetensors")
    assert file.names == ("cat", "dog") and file.dataset == ""


def test_embeddings_of_another_data_set_of_the_same_size(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "a.safetensors", rows(), VOC.names, VOC_TEMPLATES, "ab" * 32, VOC)
    with pytest.raises(UserError, match=r"other classes of voc12: row 0 is 'aeroplane', class 0 of shapes is 'red str"):
        read_embeddings(tmp_path / "a.safetensors", SHAPES, 8)
    swapped = dataclasses.replace(VOC, names=(*VOC.names[:18], VOC.names[19], VOC.names[18]))
    with pytest.raises(UserError, match="row 18 is 'train'"):
        read_embeddings(tmp_path / "a.safetensors", swapped, 8)


def test_other_templates(tmp_path: Path) -> None:
    write_embeddings(tmp_path / "a.safetensors", rows(), VOC.names, VOC_TEMPLATES, "ab" * 32, VOC)
    with pytest.raises(UserError, match=r"other templates \(1, first 'a photo of a \{\}'\) than text.templates \(15"):
        read_embeddings(tmp_path / "a.safetensors", VOC, 8, COCO_TEMPLATES)


def test_released_files_are_known_by_their_checksum(test_data: Path) -> None:
    for name, classes, templates in (("voc12_single", VOC, VOC_TEMPLATES), ("coco_multi", COCO, COCO_TEMPLATES)):
        found, warnings = read_embeddings(test_data / f"{name}.npy", classes, 512, templates)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=2e-3)  # float16 rows of unit length
        assert warnings == []
    with pytest.raises(UserError, match="for 171 classes of coco_stuff, the class list of voc12 has 20"):
        read_embeddings(test_data / "coco_multi.npy", VOC, 512)
    with pytest.raises(UserError, match="for other classes of voc12: row 0"):
        read_embeddings(test_data / "voc12_single.npy", SHAPES, 512)
    with pytest.raises(UserError, match="other templates"):
        read_embeddings(test_data / "voc12_single.npy", VOC, 512, COCO_TEMPLATES)


def test_damaged_files_are_user_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"

    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match):
            read_embeddings(path, VOC, 8)

    refused("do not exist")
    np.save(path, rows(19))
    refused("for 19 classes, the class list of voc12 has 20")
    np.save(path, rows())
    content = path.read_bytes()
    for length in (0, 5, 60, len(content) - 4):
        path.write_bytes(content[:length])
        refused("truncated or no .npy")
    path.write_bytes(content.replace(b"(20, 8)", b"(20, 8" + b"0" * 12 + b")"))
    refused("truncated or no .npy")
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    refused("truncated or no .npy")
    for array, match in (
        (np.ones((20, 9), np.float32), "length 9"),
        (np.ones((20, 8), np.int64), "expected floats"),
        (np.ones(20, np.float32), "expected floats"),
        (np.full((20, 8), np.nan, np.float32), "not finite"),
    ):
        np.save(path, array)
        refused(match)


def test_metadata_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for arrays, meta, match in (
        ({"embeddings": rows()}, {"names": ["cat"]}, "20 rows for 1 names"),
        ({"embeddings": rows(), "more": rows()}, {}, "hold 2 arrays"),
    ):
        write_safetensors(path, arrays, meta)
        with pytest.raises(UserError, match=match):
            read_embedding_file(path)
