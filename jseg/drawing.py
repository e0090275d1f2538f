"""Drawings of label maps: palette PNGs, overlays with a legend, sheets of examples. NumPy, OpenCV and Pillow only."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from jseg.errors import UserError
from jseg.files import whole_files
from jseg.outputs import PNG_MARK, check_outputs

PAPER, INK, UNSEEN_INK = (255, 255, 255), (25, 25, 25), (190, 20, 60)
SMALLEST_OVERLAY = 384  # pixels of the long side; smaller images are enlarged, so that outlines and text can be read
PANEL = 288  # pixels: width and greatest height of one image in a sheet
MARGIN = 12
Example = tuple[str, np.ndarray, np.ndarray, np.ndarray | None]  # name, (H, W, 3) image, (H, W) prediction and truth


def distinct_palette(count: int) -> np.ndarray:
    """(count, 3) uint8 RGB: vivid colours for any list of classes; neighbours in the list differ most."""
    shades = ((0.85, 0.95), (0.55, 1.0), (0.95, 0.65))  # saturation, value; hues are a golden angle apart
    colours = [colorsys.hsv_to_rgb(index * 0.381966 % 1, *shades[index // 8 % 3]) for index in range(count)]
    return np.round(255 * np.array(colours).reshape(count, 3)).astype(np.uint8)


def output_paths(folder: Path, name: str) -> tuple[Path, Path]:
    """Where label map and overlay of an image go."""
    return folder / f"{name}.png", folder / f"{name}_overlay.png"


def write_images(images: dict[Path, np.ndarray | Image.Image]) -> None:
    """Writes (H, W, 3) uint8 RGB as PNGs with jseg's mark, all of them or none; UserError if they cannot be written."""
    mark = PngInfo()
    mark.add(PNG_MARK, b"")
    with whole_files(*images) as files:
        for file, image in zip(files, images.values(), strict=True):
            image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
            image.save(file, format="PNG", compress_level=3 if image.mode == "RGB" else 6, pnginfo=mark)


def write_label_map(
    path: Path, labels: np.ndarray, palette: np.ndarray, also: dict[Path, np.ndarray] | None = None
) -> None:
    """Writes (H, W) integers in [0, n) as a PNG with an (n, 3) uint8 RGB palette, as 16-bit grey if n > 256.

    Images in `also` appear together with it, or neither does.
    """
    if labels.size and not 0 <= labels.min() <= labels.max() < len(palette):
        raise UserError(f"{path}: labels {labels.min()}..{labels.max()} do not fit a palette of {len(palette)} colours")
    image = Image.fromarray(labels.astype(np.uint16 if len(palette) > 256 else np.uint8))
    if len(palette) <= 256:
        image.putpalette(np.ascontiguousarray(palette, dtype=np.uint8).tobytes())
    write_images({**(also or {}), path: image})


def write_segmentation(
    folder: Path, name: str, labels: np.ndarray, palette: np.ndarray, drawn: np.ndarray, overwrite: bool = False
) -> None:
    """Writes a label map and an overlay, (H, W, 3) uint8 RGB, to `output_paths`: both or none of them."""
    label_path, overlay_path = paths = output_paths(folder, name)
    check_outputs(paths, folder=folder, overwrite=overwrite)  # once more: hours may have passed since the start
    # the overlay first: a name that is too long fails before the other file is in place
    write_label_map(label_path, labels, palette, {overlay_path: drawn})


def overlay(image: np.ndarray, labels: np.ndarray, palette: np.ndarray, opacity: float = 0.55) -> np.ndarray:
    """The image (H, W, 3) uint8 RGB in the colours of its classes, with borders; ids without a colour are darkened."""
    known = labels < len(palette)
    tinted = cv2.addWeighted(image, 1 - opacity, palette[np.where(known, labels, 0)], opacity, 0)
    tinted[~known] = image[~known] // 3
    border = np.zeros(labels.shape, dtype=bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    tinted[border] = tinted[border] // 5 * 2
    return tinted


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    choices = (text, *(text[:end] + "…" for end in reversed(range(len(text)))))
    return next((choice for choice in choices if font.getlength(choice) <= width), "…")


def legend(
    maps: Sequence[np.ndarray], names: Sequence[str], palette: np.ndarray, unseen: Sequence[int], width: int,
    text_size: int, shares: bool = False,
) -> np.ndarray:  # fmt: skip
    """Colours, names and perhaps shares of the classes in label maps, largest first: (height, `width`, 3) uint8 RGB."""
    areas = sum(np.bincount(labels.reshape(-1).astype(np.int64), minlength=len(names))[: len(names)] for labels in maps)
    present = [index for index in np.argsort(-areas, kind="stable") if areas[index]]
    percents = 100 * (areas / sum(labels.size for labels in maps))
    font = ImageFont.load_default(size=text_size)
    gap, line_height = text_size // 2, text_size * 3 // 2
    strip = Image.new("RGB", (width, line_height * (len(present) + 1) + gap), PAPER)
    draw = ImageDraw.Draw(strip)
    x, y = gap, gap
    for index in present:
        ink, behind = (UNSEEN_INK, " (unseen)") if index in unseen else (INK, "")
        behind += f"  {percents[index]:.1f} %" if shares else ""
        text = _shortened(names[index], font, width - text_size - 3 * gap - font.getlength(behind)) + behind
        needed = text_size + gap + int(font.getlength(text) + 0.999)
        if x > gap and x + needed + gap > width:
            x, y = gap, y + line_height
        draw.rectangle((x, y, x + text_size - 1, y + text_size - 1), fill=tuple(map(int, palette[index])), outline=ink)
        draw.text((x + text_size + gap // 2, y + text_size / 2), text, ink, font, anchor="lm")
        x += needed + gap
    return np.asarray(strip)[: y + line_height]


def overlay_with_legend(
    image: np.ndarray, labels: np.ndarray, names: Sequence[str], palette: np.ndarray, unseen: Sequence[int]
) -> np.ndarray:
    """An overlay of (H, W, 3) uint8 RGB and (H, W) class ids, enlarged if small, above the classes and their shares."""
    factor = -(-SMALLEST_OVERLAY // max(labels.shape))
    size = (labels.shape[1] * factor, labels.shape[0] * factor)
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR) if factor > 1 else image
    width = max(size[0], SMALLEST_OVERLAY * 2 // 3)  # a narrow image still needs room for words
    canvas = np.full((size[1], width, 3), PAPER, dtype=np.uint8)
    canvas[:, : size[0]] = overlay(image, labels.repeat(factor, axis=0).repeat(factor, axis=1), palette)
    strip = legend([labels], names, palette, unseen, width, max(13, min(size) // 32), shares=True)
    return np.concatenate([canvas, strip])


def thumbnail(name: str, image: np.ndarray, prediction: np.ndarray, truth: np.ndarray | None) -> Example:
    """An example at the size that it has in a sheet."""
    scale = PANEL / max(prediction.shape)
    size = tuple(max(1, round(side * scale)) for side in prediction.shape[::-1])
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    prediction = cv2.resize(prediction.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST)
    if truth is not None:
        truth = cv2.resize(truth.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST)
    return name, image, prediction, truth


def _caption(texts: Sequence[str], width: int, text_size: int) -> np.ndarray:
    font, strip = ImageFont.load_default(size=text_size), Image.new("RGB", (width, text_size * 3 // 2), PAPER)
    for column, text in enumerate(texts):
        place = (MARGIN + column * (PANEL + MARGIN), strip.height - 4)
        ImageDraw.Draw(strip).text(place, _shortened(text, font, PANEL), INK, font, anchor="ls")
    return np.asarray(strip)


def sheet(
    examples: Sequence[Example], names: Sequence[str], palette: np.ndarray, unseen: Sequence[int], title: str
) -> np.ndarray:
    """Examples below each other: image | ground truth (if any has it) | prediction; (height, width, 3) uint8 RGB."""
    examples = [thumbnail(*example) for example in examples]
    with_truth = any(truth is not None for *_, truth in examples)
    columns = ("image", "ground truth", "prediction") if with_truth else ("image", "prediction")
    width = len(columns) * (PANEL + MARGIN) + MARGIN
    rows = [_caption([title], width, 20), _caption(columns, width, 17)]
    for name, image, prediction, truth in examples:
        canvas, panels = np.full((len(image), width, 3), PAPER, dtype=np.uint8), [image]
        for labels in (truth, prediction) if with_truth else (prediction,):
            panels.append(np.full_like(image, 235) if labels is None else overlay(image, labels, palette, opacity=0.7))
        for column, panel in enumerate(panels):
            left = MARGIN + column * (PANEL + MARGIN) + (PANEL - image.shape[1]) // 2
            canvas[:, left : left + image.shape[1]] = panel
        rows += [canvas, _caption([name], width, 13)]
    maps = [labels for *_, prediction, truth in examples for labels in (prediction, truth) if labels is not None]
    return np.concatenate([*rows, legend(maps, names, palette, unseen, width, 17)])
