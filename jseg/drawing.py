"""Pictures of label maps: palette PNGs, overlays with a legend, sheets of examples. NumPy, OpenCV and Pillow only."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jseg.files import write_whole

PAPER, INK, UNSEEN_INK = (255, 255, 255), (25, 25, 25), (190, 20, 60)
SMALLEST_OVERLAY = 384  # pixels of the long side; smaller pictures are enlarged, so that outlines and text can be read
PANEL = 288  # pixels: width and greatest height of one picture in a sheet
MARGIN = 12


@dataclass(frozen=True)
class Classes:
    """What the pictures need to know of a class list."""

    names: Sequence[str]
    palette: np.ndarray  # (C, 3) uint8 RGB
    unseen: Sequence[int] = ()


@dataclass(frozen=True)
class Example:
    """One row of a sheet: image (H, W, 3) uint8 RGB, label maps (H, W) of class ids (255 = ignored)."""

    name: str
    image: np.ndarray
    prediction: np.ndarray
    truth: np.ndarray | None = None


def distinct_palette(count: int) -> np.ndarray:
    """(count, 3) uint8 RGB: vivid colours for any list of classes; neighbours in the list differ most."""
    golden_angle = 0.381966  # of a turn: successive hues stay far apart however many there are
    shades = ((0.85, 0.95), (0.55, 1.0), (0.95, 0.65))  # saturation, value
    colours = [colorsys.hsv_to_rgb(index * golden_angle % 1, *shades[index // 8 % 3]) for index in range(count)]
    return np.round(255 * np.array(colours).reshape(count, 3)).astype(np.uint8)


def write_picture(path: str | Path, picture: np.ndarray) -> None:
    """Writes (H, W, 3) uint8 RGB as a PNG, whole or not at all; UserError when it cannot be written."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=3)
    write_whole(path, buffer.getvalue())


def write_label_map(path: str | Path, labels: np.ndarray, palette: np.ndarray) -> None:
    """Writes a label map as a PNG of its own size, whole or not at all.

    Args:
        labels: (H, W) non-negative integers.
        palette: (n, 3) uint8 RGB, colour of value i. Up to 256 values give a palette PNG, more a 16-bit grey one.

    Raises:
        UserError: the file cannot be written.
    """
    if len(palette) > 256:
        picture = Image.fromarray(labels.astype(np.uint16))
    else:
        picture = Image.fromarray(labels.astype(np.uint8))
        picture.putpalette(np.ascontiguousarray(palette, dtype=np.uint8).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=6)
    write_whole(path, buffer.getvalue())


def overlay(image: np.ndarray, labels: np.ndarray, palette: np.ndarray, opacity: float = 0.55) -> np.ndarray:
    """The picture tinted with the colour of each pixel's class; class borders drawn, ignored pixels darkened.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) class ids; 255 = ignored where the palette has no such class.
        palette: (C, 3) uint8 RGB.
        opacity: share of the class colour, 0..1.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    known = labels < len(palette)
    colours = palette[np.where(known, labels, 0)]
    tinted = cv2.addWeighted(image, 1 - opacity, colours, opacity, 0)
    tinted[~known] = image[~known] // 3
    border = np.zeros(labels.shape, dtype=bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    tinted[border] = tinted[border] // 5 * 2
    return tinted


def present_classes(labels: Sequence[np.ndarray], count: int) -> list[int]:
    """Ids below `count` that occur in any of the label maps, those of the most pixels first."""
    areas = sum(np.bincount(item[item < count].astype(np.int64), minlength=count) for item in labels)
    return [int(index) for index in np.argsort(-areas, kind="stable") if areas[index]]


def class_shares(labels: np.ndarray, count: int) -> np.ndarray:
    """(count,) share of the picture that each class fills, 0..1."""
    return np.bincount(labels.reshape(-1).astype(np.int64), minlength=count)[:count] / labels.size


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def legend(
    classes: Classes, present: Sequence[int], width: int, text_size: int, notes: Sequence[str] = ()
) -> np.ndarray:
    """A strip of colour swatches with class names; unseen classes are marked in words and colour.

    Args:
        classes: names, colours, unseen ids.
        present: ids to show, in this order.
        width: of the strip in pixels.
        text_size: in pixels.
        notes: a text behind each name, e.g. its share; none or one per id.

    Returns:
        (height, width, 3) uint8 RGB; the height follows from the number of lines.
    """
    font = ImageFont.load_default(size=text_size)
    swatch, gap, line_height = text_size, text_size // 2, text_size * 3 // 2
    strip = Image.new("RGB", (width, line_height * (len(present) + 1) + gap), PAPER)
    draw = ImageDraw.Draw(strip)
    x, y = gap, gap
    for position, index in enumerate(present):
        unseen = index in classes.unseen
        behind = (" (unseen)" if unseen else "") + (f"  {notes[position]}" if notes else "")
        text = _shortened(classes.names[index], font, width - swatch - 3 * gap - font.getlength(behind)) + behind
        needed = swatch + gap + int(font.getlength(text) + 0.999)
        if x > gap and x + needed + gap > width:
            x, y = gap, y + line_height
        box = (x, y, x + swatch - 1, y + swatch - 1)
        draw.rectangle(box, fill=tuple(map(int, classes.palette[index])), outline=UNSEEN_INK if unseen else INK)
        draw.text((x + swatch + gap // 2, y + swatch / 2), text, UNSEEN_INK if unseen else INK, font, anchor="lm")
        x += needed + gap
    return np.asarray(strip)[: y + line_height]


def overlay_with_legend(image: np.ndarray, labels: np.ndarray, classes: Classes) -> np.ndarray:
    """An overlay with a legend of the classes present and their shares below it.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) class ids.
        classes: names, colours, unseen ids.

    Returns:
        (h, w, 3) uint8 RGB; small pictures come out enlarged by a whole factor.
    """
    factor = -(-SMALLEST_OVERLAY // max(labels.shape))
    size = (labels.shape[1] * factor, labels.shape[0] * factor)
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR) if factor > 1 else image
    enlarged = np.repeat(np.repeat(labels, factor, axis=0), factor, axis=1)
    picture = overlay(image, enlarged, classes.palette)
    present = present_classes([labels], len(classes.names))
    shares = 100 * class_shares(labels, len(classes.names))
    notes = [f"{shares[index]:.1f} %" for index in present]
    width = max(size[0], SMALLEST_OVERLAY * 2 // 3)  # a narrow picture still needs room for words
    text_size = max(13, min(size) // 32)
    if size[0] < width:
        picture = cv2.copyMakeBorder(picture, 0, 0, 0, width - size[0], cv2.BORDER_CONSTANT, value=PAPER)
    return np.concatenate([picture, legend(classes, present, width, text_size, notes)])


def _panel(picture: np.ndarray, height: int) -> np.ndarray:
    """`picture` on a panel of PANEL x `height` pixels, in the middle."""
    panel = np.full((height, PANEL, 3), PAPER, dtype=np.uint8)
    top, left = (height - picture.shape[0]) // 2, (PANEL - picture.shape[1]) // 2
    panel[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return panel


def thumbnail(example: Example) -> Example:
    """The example at the size that it has in a sheet."""
    height, width = example.prediction.shape
    scale = min(PANEL / width, PANEL / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (width, height):
        return example
    image = cv2.resize(example.image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    prediction, truth = (
        None if labels is None else cv2.resize(labels.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST)
        for labels in (example.prediction, example.truth)
    )
    return Example(example.name, image, prediction, truth)


def _sheet_row(example: Example, classes: Classes, with_truth: bool) -> np.ndarray:
    panels = [example.image]
    for labels in ([example.truth] if with_truth else []) + [example.prediction]:
        if labels is None:
            panels.append(np.full_like(example.image, 235))
        else:
            panels.append(overlay(example.image, labels, classes.palette, opacity=0.7))
    height = example.image.shape[0]
    panels = [_panel(panel, height) for panel in panels]
    spacer = np.full((height, MARGIN, 3), PAPER, dtype=np.uint8)
    return np.concatenate([spacer, *(part for panel in panels for part in (panel, spacer))], axis=1)


def _caption(texts: Sequence[str], width: int, text_size: int) -> np.ndarray:
    """A strip with one text above each panel of a sheet."""
    font = ImageFont.load_default(size=text_size)
    strip = Image.new("RGB", (width, text_size * 3 // 2), PAPER)
    draw = ImageDraw.Draw(strip)
    for column, text in enumerate(texts):
        x = MARGIN + column * (PANEL + MARGIN)
        draw.text((x, strip.height - 4), _shortened(text, font, PANEL), INK, font, anchor="ls")
    return np.asarray(strip)


def sheet(examples: Sequence[Example], classes: Classes, title: str = "") -> np.ndarray:
    """Examples below each other: image | ground truth (if any example has it) | prediction, and one legend.

    Args:
        examples: at least one.
        classes: names, colours, unseen ids.
        title: a line above the sheet.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    examples = [thumbnail(example) for example in examples]
    with_truth = any(example.truth is not None for example in examples)
    columns = ("image", "ground truth", "prediction") if with_truth else ("image", "prediction")
    width = len(columns) * (PANEL + MARGIN) + MARGIN
    rows = [_caption([title], width, 20)] if title else []
    rows.append(_caption(columns, width, 17))
    for example in examples:
        rows += [_sheet_row(example, classes, with_truth), _caption([example.name], width, 13)]
    maps = [labels for example in examples for labels in (example.truth, example.prediction) if labels is not None]
    rows.append(legend(classes, present_classes(maps, len(classes.names)), width, 17))
    return np.concatenate(rows)
