"""Drawings of label maps: palette PNGs, overlays with a legend, sheets of examples. NumPy, OpenCV and Pillow only."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from jseg.data.class_names import GREY
from jseg.errors import UserError
from jseg.files import whole_files
from jseg.outputs import PNG_MARK, check_outputs

NONE = 255  # the label of pixels that are none of the classes
PAPER, INK, UNSEEN_INK = (255, 255, 255), (25, 25, 25), (190, 20, 60)
SMALLEST_OVERLAY = 384  # pixels of the long side; smaller images are enlarged, so that outlines and text can be read
PANEL = 288  # pixels: width and greatest height of one image in a sheet
MARGIN = 12
Example = tuple[str, np.ndarray, np.ndarray, np.ndarray | None]  # name, (H, W, 3) image, (H, W) prediction and truth


def output_paths(folder: Path, name: str) -> tuple[Path, Path]:
    """Where label map and overlay of an image go."""
    return folder / f"{name}.png", folder / f"{name}_overlay.png"


def png_bytes(image: np.ndarray | Image.Image) -> bytes:
    """(H, W, 3) uint8 RGB, or a Pillow image, as a PNG with jseg's mark."""
    image, file, mark = Image.fromarray(image) if isinstance(image, np.ndarray) else image, io.BytesIO(), PngInfo()
    mark.add(PNG_MARK, b"")
    image.save(file, format="PNG", compress_level=3 if image.mode == "RGB" else 6, pnginfo=mark)
    return file.getvalue()


def write_images(images: Mapping[Path, np.ndarray | Image.Image | bytes]) -> None:
    """Writes images as `png_bytes`, bytes as they are, all or none of them; UserError if they cannot be written."""
    with whole_files(*images) as files:
        for file, image in zip(files, images.values(), strict=True):
            file.write(image if isinstance(image, bytes) else png_bytes(image))


def label_map_image(path: Path, labels: np.ndarray, palette: np.ndarray) -> Image.Image:
    """(H, W) integers in [0, n), and 255 = none of them, with an (n, 3) uint8 RGB palette; 16-bit grey if n > 256."""
    strange = labels[(labels < 0) | (labels >= len(palette)) & (labels != NONE)]
    if strange.size:
        found = f"{strange.min()}..{strange.max()}"
        raise UserError(f"{path}: labels {found} do not fit a palette of {len(palette)} colours")
    image = Image.fromarray(labels.astype(np.uint16 if len(palette) > 256 else np.uint8))
    if len(palette) <= 256:  # a shorter palette would cut 255 to the bits of another class
        rest = [GREY] * (256 - len(palette)) if (labels == NONE).any() else []
        image.putpalette(np.array([*palette, *rest], dtype=np.uint8).tobytes())
    return image


def write_label_map(path: Path, labels: np.ndarray, palette: np.ndarray) -> None:
    """Writes labels as `label_map_image`."""
    write_images({path: label_map_image(path, labels, palette)})


def write_segmentation(
    folder: Path, name: str, labels: np.ndarray, palette: np.ndarray, drawn: np.ndarray, overwrite: bool = False
) -> None:
    """Writes a label map and an overlay, (H, W, 3) uint8 RGB, to `output_paths`: both or none of them."""
    label_path, overlay_path = paths = output_paths(folder, name)
    check_outputs(paths, folder=folder, overwrite=overwrite)  # once more: hours may have passed since the start
    # the overlay first: a name that is too long fails before the other file is in place
    write_images({overlay_path: drawn, label_path: label_map_image(label_path, labels, palette)})


def overlay(
    image: np.ndarray, labels: np.ndarray, palette: np.ndarray, opacity: float = 0.55, outline: bool = False,
    names: Sequence[str] = (),
) -> np.ndarray:  # fmt: skip
    """The image (H, W, 3) uint8 RGB in the colours of its classes, with borders; ids without a colour are grey.

    With `outline` only the borders are drawn. With `names` large regions are named.
    """
    ids = np.where(labels < len(palette), labels, len(palette))
    colours = np.vstack([palette, np.uint8([GREY])])[ids]
    plain = image.copy()
    if not outline:
        nowhere = ids == len(palette)
        plain[nowhere] = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[nowhere][:, None]
        plain = cv2.addWeighted(plain, 1 - opacity, colours, opacity, 0)
    border = np.zeros(labels.shape, dtype=np.uint8)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    thickness = max(3 * outline, round(max(labels.shape) / 500))
    border = cv2.dilate(border, np.ones((thickness, thickness), np.uint8)).astype(bool) if thickness > 1 else border > 0
    plain[border] = colours[border] if outline else plain[border] // 5 * 2
    return _with_names(plain, ids, names) if names else plain


def _with_names(image: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Writes the name of each class where its largest region, if it has the room, is widest."""
    canvas = Image.fromarray(image)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=max(12, min(labels.shape) // 24))
    for index in np.unique(labels[labels < len(names)]).tolist():
        inside = np.pad(labels == index, 1).astype(np.uint8)
        _, room, _, (x, y) = cv2.minMaxLoc(cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1])
        left, top, right, bottom = map(int, draw.textbbox((x, y), names[index], font, anchor="mm"))
        behind = labels[top:bottom, left:right] == index if left >= 0 and room >= bottom - top else np.array(False)
        if behind.mean() > 0.8 and right <= labels.shape[1]:
            style = {"stroke_width": max(1, font.size // 9), "stroke_fill": INK}
            draw.text((x, y), names[index], PAPER, font, anchor="mm", **style)
    return np.asarray(canvas)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    choices = (text, *(text[:end] + "…" for end in reversed(range(len(text)))))
    return next((choice for choice in choices if font.getlength(choice) <= width), "…")


def legend(
    maps: Sequence[np.ndarray], names: Sequence[str], palette: np.ndarray, unseen: Sequence[int], width: int,
    text_size: int, shares: bool = False,
) -> np.ndarray:  # fmt: skip
    """Colours, names and perhaps shares of the classes in label maps, largest first: (height, `width`, 3) uint8 RGB.

    With shares it shows the ten largest, and what belongs to no class.
    """
    areas = np.zeros(len(names), np.int64)
    for labels in maps:
        areas += np.bincount(labels.reshape(-1).astype(np.int64), minlength=len(names))[: len(names)]
    if shares:
        names, palette = (*names, "none of these"), np.vstack([palette[: len(names)], np.uint8([GREY])])
        areas = np.append(areas, sum(labels.size for labels in maps) - areas.sum())
    present = [index for index in np.argsort(-areas, kind="stable") if areas[index]][: 10 if shares else None]
    percents = 100 * (areas / max(sum(labels.size for labels in maps), 1))
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
    image: np.ndarray, labels: np.ndarray, names: Sequence[str], palette: np.ndarray, unseen: Sequence[int],
    opacity: float = 0.55, outline: bool = False,
) -> np.ndarray:  # fmt: skip
    """An overlay of (H, W, 3) uint8 RGB and (H, W) class ids, enlarged if small, above the classes and their shares."""
    factor = -(-SMALLEST_OVERLAY // max(labels.shape))
    size = (labels.shape[1] * factor, labels.shape[0] * factor)
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR) if factor > 1 else image
    width = max(size[0], SMALLEST_OVERLAY * 2 // 3)  # a narrow image still needs room for words
    canvas = np.full((size[1], width, 3), PAPER, dtype=np.uint8)
    enlarged = labels.repeat(factor, axis=0).repeat(factor, axis=1)
    canvas[:, : size[0]] = overlay(image, enlarged, palette, opacity, outline, names)
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
    room = PANEL if len(texts) > 1 else width - 2 * MARGIN
    for column, text in enumerate(texts):
        place = (MARGIN + column * (PANEL + MARGIN), strip.height - 4)
        ImageDraw.Draw(strip).text(place, _shortened(text, font, room), INK, font, anchor="ls")
    return np.asarray(strip)


def sheet(
    examples: Sequence[Example], names: Sequence[str], palette: np.ndarray, unseen: Sequence[int], title: str
) -> np.ndarray:
    """Examples below each other, (height, width, 3) uint8 RGB: image | ground truth | prediction | errors.

    Grey: pixels that do not count. Without any ground truth: image | prediction.
    """
    with_truth = any(truth is not None for *_, truth in examples)
    columns = ("image", "ground truth", "prediction", "errors: red") if with_truth else ("image", "prediction")
    width, maps = len(columns) * (PANEL + MARGIN) + MARGIN, []
    rows = [_caption([title], width, 20), _caption(columns, width, 17)]
    for name, image, prediction, truth in (thumbnail(*example) for example in examples):
        canvas, panels = np.full((len(image), width, 3), PAPER, dtype=np.uint8), {0: image}
        if truth is None:
            panels[2 if with_truth else 1] = overlay(image, prediction, palette, opacity=0.7)
            maps.append(prediction)
        else:
            shown = np.where(truth < len(palette), prediction, NONE)
            errors = np.where(truth < len(palette), prediction != truth, NONE)
            panels |= {1: overlay(image, truth, palette, opacity=0.7), 2: overlay(image, shown, palette, opacity=0.7)}
            panels[3] = overlay(image, errors, np.uint8([PAPER, (230, 0, 0)]), opacity=0.7)
            maps += [truth, shown]
        for column, panel in panels.items():
            left = MARGIN + column * (PANEL + MARGIN) + (PANEL - image.shape[1]) // 2
            canvas[:, left : left + image.shape[1]] = panel
        rows += [canvas, _caption([name], width, 13)]
    return np.concatenate([*rows, legend(maps, names, palette, unseen, width, 17)])


def confusion_image(counts: np.ndarray, names: Sequence[str], unseen: Sequence[int]) -> np.ndarray:
    """A confusion matrix, (C, C) integers, rows are labels, as shares of the rows: (height, width, 3) uint8 RGB.

    The darker, the larger the square root of the share. Up to 200 classes have their names, up to 80 also the percents.
    """
    areas, cell, margin = counts.sum(axis=1, keepdims=True), min(36, max(3, 2000 // len(names))), 180
    shares = counts / np.maximum(areas, 1)
    inks = np.where(np.eye(len(names), dtype=bool)[..., None], (20, 80, 170), UNSEEN_INK)
    colours = np.where(areas[..., None] > 0, 255 - np.sqrt(shares)[..., None] * (255 - inks), 200)
    grid = colours.round().astype(np.uint8).repeat(cell, axis=0).repeat(cell, axis=1)
    if cell >= 10:
        grid[::cell], grid[:, ::cell] = 235, 235
    canvas = Image.new("RGB", (margin + len(grid), margin + len(grid)), PAPER)
    canvas.paste(Image.fromarray(grid), (margin, margin))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
    text = "rows: labels\ncolumns: predictions\nin percent of the row\nblue: right, red: wrong\ngrey: no pixels"
    draw.text((8, 8), f"{text}\nred name: unseen class" if unseen else text, INK, font)
    for row, column in np.argwhere(shares >= 0.005) if cell >= 25 else ():
        place, share = (margin + (column + 0.5) * cell, margin + (row + 0.5) * cell), shares[row, column]
        draw.text(place, f"{100 * share:.0f}", PAPER if share > 0.3 else INK, font, anchor="mm")
    font = ImageFont.load_default(size=min(15, cell - 1))
    for anchor, x in (("rm", margin - 4), ("lm", 4)) if cell >= 10 else ():
        strip = Image.new("RGB", (margin, len(grid)), PAPER)
        for index, name in enumerate(names):
            place, ink = (x, (index + 0.5) * cell), UNSEEN_INK if index in unseen else INK
            ImageDraw.Draw(strip).text(place, _shortened(name, font, margin - 8), ink, font, anchor=anchor)
        canvas.paste(
            *((strip, (0, margin)) if anchor == "rm" else (strip.transpose(Image.Transpose.ROTATE_90), (margin, 0)))
        )
    return np.asarray(canvas)
