"""Reading pictures and label PNGs, and noticing bad files."""

from __future__ import annotations

import io
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
def test_pictures_are_rgb(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"x{suffix}", drawing(), **({"lossless": True} if suffix == ".webp" else {}))
    assert file_problem(path) == ""
    np.testing.assert_array_equal(read_image(path), drawing())


def test_jpeg_is_close_and_grey_pictures_become_rgb(tmp_path: Path) -> None:
    jpeg = read_image(save(tmp_path / "x.jpg", drawing(), quality=98, subsampling=0))
    assert np.abs(jpeg.astype(int) - drawing()).mean() < 2
    grey = read_image(save(tmp_path / "grey.png", drawing()[..., 0]))
    np.testing.assert_array_equal(grey, np.repeat(drawing()[..., :1], 3, 2))


def test_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    path = tmp_path / "x.jpg"
    Image.fromarray(drawing()).save(path, exif=exif)
    assert read_image(path).shape == (70, 50, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_truncated_pictures_are_noticed_and_named(tmp_path: Path, suffix: str, share: float) -> None:
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
    (tmp_path / "text.jpg").write_text("not a picture at all, only words")
    assert file_problem(tmp_path / "text.jpg") == "not a picture"
    (tmp_path / "folder.jpg").mkdir()
    assert "cannot be read" in file_problem(tmp_path / "folder.jpg")
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
