"""Reading images and label PNGs, and noticing bad files."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from jseg.data.image_files import read_image, read_stored_labels
from jseg.errors import UserError


def drawing() -> np.ndarray:
    return cv2.resize(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8), (70, 50))


def save(path: Path, image: np.ndarray, **options: object) -> Path:
    Image.fromarray(image).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".gif", ".jpg"])
def test_images_are_rgb(tmp_path: Path, suffix: str) -> None:
    pixels, options = drawing(), {".webp": {"lossless": True}, ".jpg": {"quality": 98, "subsampling": 0}}
    if suffix == ".gif":
        pixels = np.repeat(np.arange(48, dtype=np.uint8).reshape(6, 8, 1) * 5, 3, 2)
    found = read_image(save(tmp_path / f"x{suffix}", pixels, **options.get(suffix, {})))
    assert found.dtype == np.uint8 and np.abs(found.astype(int) - pixels).mean() < (2 if suffix == ".jpg" else 1e-9)
    grey = read_image(save(tmp_path / "grey.png", pixels[..., 0]))
    np.testing.assert_array_equal(grey, np.repeat(pixels[..., :1], 3, 2))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation  # how the camera was held
    options = {"lossless": True} if suffix == ".webp" else {}
    plain = read_image(save(tmp_path / f"plain{suffix}", drawing(), **options))
    turned = read_image(save(tmp_path / f"x{suffix}", drawing(), exif=exif, **options))
    np.testing.assert_array_equal(turned, np.rot90(plain, {3: 2, 6: 3, 8: 1}[orientation]))


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
    with pytest.raises(UserError, match=f"x\\{suffix}: ") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_bytes_after_the_end_are_allowed(tmp_path: Path) -> None:
    path = save(tmp_path / "x.jpg", drawing())
    whole = read_image(path)
    path.write_bytes(path.read_bytes() + b"maker's note" * 9)
    np.testing.assert_array_equal(read_image(path), whole)


@pytest.mark.parametrize(("mode", "bits"), [("P", 8), ("L", 8), ("P", 2)])
def test_labels_are_palette_entries_or_grey_values(tmp_path: Path, mode: str, bits: int) -> None:
    stored = np.random.default_rng(0).integers(0, 2**bits, (9, 13), dtype=np.uint8)
    image = Image.fromarray(stored, mode)
    if mode == "P":
        image.putpalette(np.random.default_rng(1).integers(0, 256, 3 * 2**bits, dtype=np.uint8).tobytes())
    image.save(tmp_path / "x.png", bits=bits)
    np.testing.assert_array_equal(read_stored_labels(tmp_path / "x.png"), stored)


@pytest.mark.parametrize("read", [read_image, read_stored_labels])
def test_what_is_no_image_is_named(tmp_path: Path, read: Callable[[Path], np.ndarray]) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not an image at all, only words")
    (tmp_path / "cut.png").write_bytes(save(tmp_path / "x.png", drawing()[..., 0]).read_bytes()[:-40])
    os.mkfifo(tmp_path / "pipe.png")  # must not hang
    for name in ("none", "empty", "text", "cut", "pipe"):
        with pytest.raises(UserError, match=rf"{name}\.png") as caught:
            read(tmp_path / f"{name}.png")
        assert "\n" not in str(caught.value)


COLOURED = [((4, 4, 3), "u1", "8-bit RGB"), ((4, 4), "?", "1-bit grey"), ((4, 4), "u2", "16-bit grey")]


@pytest.mark.parametrize(("shape", "kind", "name"), COLOURED)
def test_colour_encoded_labels_are_refused(tmp_path: Path, shape: tuple[int, ...], kind: str, name: str) -> None:
    with pytest.raises(UserError, match=rf"x\.png: {name} PNG"):
        read_stored_labels(save(tmp_path / "x.png", np.zeros(shape, kind)))
