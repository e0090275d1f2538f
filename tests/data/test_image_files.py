"""Reading images and label PNGs, and noticing bad files."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from jseg.data.image_files import file_problem, read_image, read_stored_labels
from jseg.errors import UserError


def drawing() -> np.ndarray:
    return cv2.resize(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8), (70, 50))


def save(path: Path, image: np.ndarray, mode: str | None = None, **options: object) -> Path:
    Image.fromarray(image, mode).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_images_are_rgb(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"x{suffix}", drawing(), **({"lossless": True} if suffix == ".webp" else {}))
    assert file_problem(path) == ""
    np.testing.assert_array_equal(read_image(path), drawing())


def test_jpeg_is_close_and_grey_images_become_rgb(tmp_path: Path) -> None:
    jpeg = read_image(save(tmp_path / "x.jpg", drawing(), quality=98, subsampling=0))
    assert np.abs(jpeg.astype(int) - drawing()).mean() < 2
    grey = read_image(save(tmp_path / "grey.png", drawing()[..., 0]))
    np.testing.assert_array_equal(grey, np.repeat(drawing()[..., :1], 3, 2))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation  # how the camera was held
    options = {"lossless": True} if suffix == ".webp" else {}
    plain = read_image(save(tmp_path / f"plain{suffix}", drawing(), **options))
    turned = read_image(save(tmp_path / f"x{suffix}", drawing(), exif=exif, **options))
    np.testing.assert_array_equal(turned, np.rot90(plain, {1: 0, 3: 2, 6: 3, 8: 1}[orientation]))


def test_gif_is_read(tmp_path: Path) -> None:
    pixels = np.repeat(np.arange(48, dtype=np.uint8).reshape(6, 8, 1) * 5, 3, 2)
    path = save(tmp_path / "x.gif", pixels)
    assert file_problem(path) == ""
    np.testing.assert_array_equal(read_image(path), pixels)


@pytest.mark.parametrize("labels", [False, True])
def test_pipes_do_not_hang(tmp_path: Path, labels: bool) -> None:
    os.mkfifo(tmp_path / "x.png")
    assert file_problem(tmp_path / "x.png", labels) == "not a regular file"
    with pytest.raises(UserError, match=r"x\.png: not a regular file"):
        (read_stored_labels if labels else read_image)(tmp_path / "x.png")


def test_sizes_that_nobody_can_decode_are_refused(tmp_path: Path) -> None:
    content = bytearray(save(tmp_path / "x.png", drawing()).read_bytes())
    content[16:24] = struct.pack(">II", 100_000, 100_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.png: damaged: Image size"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_truncated_images_are_noticed_and_named(tmp_path: Path, suffix: str, share: float) -> None:
    path = save(tmp_path / f"x{suffix}", drawing())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert file_problem(path)
    with pytest.raises(UserError, match=f"x\\{suffix}: ") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_bytes_after_the_end_are_allowed(tmp_path: Path) -> None:
    path = save(tmp_path / "x.jpg", drawing())
    whole = read_image(path)
    for extra in (b"\0" * 100, b"maker's note" * 9):
        path.write_bytes(path.read_bytes() + extra)
        assert file_problem(path) == ""
        np.testing.assert_array_equal(read_image(path), whole)


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    assert file_problem(tmp_path / "none.jpg") == "missing"
    (tmp_path / "empty.jpg").touch()
    assert file_problem(tmp_path / "empty.jpg") == "empty"
    (tmp_path / "text.jpg").write_text("not an image at all, only words")
    assert file_problem(tmp_path / "text.jpg") == "not an image"
    (tmp_path / "folder.jpg").mkdir()
    assert file_problem(tmp_path / "folder.jpg") == "not a regular file"
    for name in ("none", "empty", "text", "folder"):
        with pytest.raises(UserError, match=f"{name}.jpg"):
            read_image(tmp_path / f"{name}.jpg")


@pytest.mark.parametrize("mode", ["P", "L"])
def test_labels_are_palette_entries_or_grey_values(tmp_path: Path, mode: str) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (9, 13), dtype=np.uint8)
    image = Image.fromarray(stored, mode)
    if mode == "P":
        image.putpalette(np.random.default_rng(1).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(tmp_path / "x.png")
    assert file_problem(tmp_path / "x.png", labels=True) == ""
    np.testing.assert_array_equal(read_stored_labels(tmp_path / "x.png"), stored)


def test_small_palettes_keep_their_numbers(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 4, (9, 13), dtype=np.uint8)
    image = Image.fromarray(stored, "P")
    image.putpalette(bytes(range(12)))
    image.save(tmp_path / "x.png", bits=2)
    np.testing.assert_array_equal(read_stored_labels(tmp_path / "x.png"), stored)


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.zeros((4, 4, 3), np.uint8), "8-bit RGB"),
        (np.zeros((4, 4, 4), np.uint8), "8-bit RGBA"),
        (np.zeros((4, 4), bool), "1-bit grey"),
        (np.zeros((4, 4), np.uint16), "16-bit grey"),
    ],
)
def test_colour_encoded_labels_are_refused(tmp_path: Path, array: np.ndarray, kind: str) -> None:
    path = save(tmp_path / "x.png", array)
    assert kind in file_problem(path, labels=True)
    with pytest.raises(UserError, match=rf"x\.png: {kind} PNG"):
        read_stored_labels(path)


def test_labels_must_be_png_and_whole(tmp_path: Path) -> None:
    assert file_problem(save(tmp_path / "x.bmp", np.zeros((4, 4), np.uint8)), labels=True) == "not a PNG"
    buffer = io.BytesIO()
    Image.fromarray(drawing()[..., 0]).save(buffer, "png")
    (tmp_path / "x.png").write_bytes(buffer.getvalue()[:-40])
    assert file_problem(tmp_path / "x.png", labels=True) == "truncated"
    for name in ("x.png", "x.bmp", "none.png"):
        with pytest.raises(UserError, match=name):
            read_stored_labels(tmp_path / name)
