"""The result of segmenting one image: labels, shares, masks, polygons, COCO annotations, files; and lists of names.

COCO's format: https://cocodataset.org/#format-data (run lengths by columns, boxes x, y, width, height in pixels).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import cv2
import numpy as np
from PIL import Image, ImageOps

from jseg import __version__, drawing
from jseg.data.class_names import class_palette
from jseg.data.image_files import read_image
from jseg.drawing import NONE
from jseg.errors import UserError
from jseg.files import JSON_MARK, as_json
from jseg.outputs import MARKS, check_outputs

if TYPE_CHECKING:
    import jittor as jt

Names = str | Sequence[str] | Mapping[str, Sequence[str]]
PARTS = ("labels", "overlay", "masks", "scores", "json", "label_studio")  # what `Segmentation.save` can write


class ClassNames(NamedTuple):
    """Class names with their synonyms; the score of a class is the best of its texts."""

    names: tuple[str, ...]
    texts: tuple[str, ...]  # of all classes, then those of `others`
    ends: tuple[int, ...]  # 0, and where the texts of each class end, and those of `others` if there are any
    seen: tuple[int, ...]  # positions in `texts`


def _split(names: Names) -> list[list[str]]:
    if isinstance(names, Mapping):
        groups = [[name, *([more] if isinstance(more, str) else more)] for name, more in names.items()]
    else:
        groups = [item.split("|") for item in (names.split(",") if isinstance(names, str) and names else names)]
    return [[" ".join(text.split()) for text in group] for group in groups]


def check_class_names(names: Names, seen: Names = (), others: Names = (), threshold: float | None = None) -> ClassNames:
    """Class names as the model needs them; UserError for names that cannot be.

    Each argument is a string with commas, a list, or a dictionary from names to synonyms; "cat|kitten|tabby" is the
    class "cat" with two synonyms. A seen class stands for its synonyms too.
    """
    groups, rest = _split(names), [text for group in _split(others) for text in group]
    owners = [(text, group[0]) for group in groups for text in group] + [(text, text) for text in rest]
    texts = tuple(text for text, _ in owners)
    lower = [text.lower() for text in texts]  # as the text tower reads them
    if not all(lower) or not groups:
        raise UserError("class names: give at least one, and no empty ones")
    if twice := [text for place, text in enumerate(texts) if lower.index(text.lower()) != place]:
        raise UserError(f"class names: {', '.join(twice)} is given twice")
    if threshold is not None and not 0 <= threshold <= 1:  # NaN included
        raise UserError(f"threshold {threshold}: must be 0..1, as scores are")
    if (rest or threshold is not None) and len(groups) > NONE:
        raise UserError(f"others, threshold: only with at most {NONE} class names, as {NONE} is the label of no class")
    wanted, own = {text for group in _split(seen) for text in group}, tuple(group[0] for group in groups)
    if unknown := wanted - {*texts}:
        raise UserError(f"seen classes: {', '.join(sorted(unknown))} not among the class names ({', '.join(own)})")
    ends = np.cumsum([0, *map(len, groups), *([len(rest)] if rest else [])]).tolist()
    return ClassNames(own, texts, tuple(ends), tuple(i for i, pair in enumerate(owners) if {*pair} & wanted))


def as_image(image: np.ndarray | Image.Image | str | Path) -> np.ndarray:
    """Pixels (H, W, 3) uint8 RGB of an image file, a Pillow image or an array; UserError for anything else."""
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,) or not image.size:
        raise UserError("the image must be a file, a Pillow image or an (H, W, 3) uint8 RGB array")
    return image


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's run lengths, not compressed, of a mask (H, W) bool: {"size": [H, W], "counts": [...]}."""
    values = np.concatenate([[False], mask.ravel(order="F")])  # counts begin with zeros
    ends = np.flatnonzero(values[1:] != values[:-1])
    return {"size": list(mask.shape), "counts": np.diff([0, *ends.tolist(), mask.size]).tolist()}


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Polygons that cover exactly the pixels of a mask (H, W) bool: (N, 2) int32 x, y of corners, 0..W and 0..H.

    One for each region; a hole in it is reached over a line that is drawn to and fro.
    """
    doubled = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)  # pixels 2i - 1 and 2i touch corner i
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    polygons = {}
    for place, contour in enumerate(contours):  # an outer one comes before its holes
        ring, outer = (contour[:, 0] + 1) // 2, polygons.get(parent := hierarchy[0, place, 3])
        ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)]
        polygons |= {place: ring} if outer is None else {parent: np.concatenate([outer, outer[:1], ring, ring[:1]])}
    return [*polygons.values()]


@dataclass(frozen=True, repr=False, eq=False)
class Segmentation:
    """The classes of one image."""

    labels: np.ndarray  # (H, W) int32: position in `names`; 255 = none of these (only with at most 255 names)
    names: tuple[str, ...]
    scores: np.ndarray | None = None  # (C, H, W) float32 in [-gamma, 1], if they were asked for
    confidence: np.ndarray | None = None  # (H, W) float32: the best score of the names at each pixel
    image: np.ndarray | None = None  # (H, W, 3) uint8 RGB
    unseen: tuple[int, ...] = ()  # positions of the classes that are marked as unseen in the legend

    @property
    def shares(self) -> dict[str, float]:
        """Share of the image, 0..1, that each class fills, and "none of these" if there is any."""
        counts = np.bincount(self.labels.reshape(-1), minlength=len(self.names))[: len(self.names)]
        shares = {name: float(count / self.labels.size) for name, count in zip(self.names, counts, strict=True)}
        rest = self.labels.size - int(counts.sum())
        return shares | ({"none of these": rest / self.labels.size} if rest else {})

    def __str__(self) -> str:
        shares = sorted(self.shares.items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares if share)

    def __repr__(self) -> str:
        return f"Segmentation({self.labels.shape[1]}x{self.labels.shape[0]}: {self})"

    def _repr_png_(self) -> bytes | None:
        return None if self.image is None else drawing.png_bytes(self.overlay())

    def mask(self, name: str) -> np.ndarray:
        """Where a class is, (H, W) bool; UserError for a name that was not asked for."""
        if name not in self.names:
            raise UserError(f"{name!r} is not among the class names ({', '.join(self.names)})")
        return self.labels == self.names.index(name)

    def polygons(self, name: str) -> list[np.ndarray]:
        """The regions of a class as polygons, one (N, 2) int array x, y each, 0..W and 0..H; see `outlines`."""
        return outlines(self.mask(name))

    def overlay(self, opacity: float = 0.55, outline: bool = False) -> np.ndarray:
        """The image in the colours of its classes, or with `outline` their borders, and a legend: uint8 RGB."""
        if self.image is None:
            raise UserError("this segmentation has no image to draw on")
        palette = class_palette(self.names)
        return drawing.overlay_with_legend(self.image, self.labels, self.names, palette, self.unseen, opacity, outline)

    def to_coco(self, image_id: int = 1, file_name: str = "", first_id: int = 1) -> dict[str, list[dict[str, Any]]]:
        """COCO's images, annotations (one for each class that is there) and categories (ids from 1).

        `segmentation` holds run lengths, `polygons` the same as polygons, `score` the mean confidence.
        """
        annotations = []
        for index, name in enumerate(self.names):
            if not (mask := self.mask(name)).any():
                continue
            entry = {"id": first_id + len(annotations), "image_id": image_id, "category_id": index + 1, "iscrowd": 0}
            entry |= {"segmentation": run_lengths(mask), "area": int(mask.sum())}
            entry |= {"polygons": [polygon.reshape(-1).tolist() for polygon in outlines(mask)]}
            entry |= {"bbox": [*cv2.boundingRect(mask.astype(np.uint8))]}
            if self.confidence is not None:
                entry["score"] = round(float(self.confidence[mask].mean()), 4)
            annotations.append(entry)
        height, width = self.labels.shape
        image = {"id": image_id, "file_name": file_name, "width": width, "height": height}
        categories = [{"id": index + 1, "name": name} for index, name in enumerate(self.names)]
        return {"images": [image], "annotations": annotations, "categories": categories}

    def to_label_studio(self, file_name: str) -> dict[str, Any]:
        """A task for Label Studio: the file below its folder of local files; polygons to within a pixel, in percent."""
        (height, width), result = self.labels.shape, []
        common = {"type": "polygonlabels", "from_name": "label", "to_name": "image", "image_rotation": 0}
        common |= {"original_width": width, "original_height": height}  # https://labelstud.io/tags/polygonlabels
        for name, ring in ((text, polygon) for text in self.names for polygon in self.polygons(text)):
            points = cv2.approxPolyDP(ring, 1, True)[:, 0] * (100 / width, 100 / height)
            value = {"points": points.tolist(), "polygonlabels": [name]}
            result += [common | {"id": str(len(result)), "value": value}] * (len(points) > 2)  # else of a few pixels
        data = {JSON_MARK: __version__, "image": f"/data/local-files/?d={quote(file_name)}"}
        return {"data": data, "predictions": [{"model_version": "jseg", "result": result}]}

    def save(
        self, folder: str | Path, name: str = "image", parts: Sequence[str] = PARTS[:2], overwrite: bool = False,
        opacity: float = 0.55, outline: bool = False,
    ) -> list[Path]:  # fmt: skip
        """Writes some of `PARTS` to the files that `saved_paths` names, all or none of them, and returns the files."""
        parts = parts.replace(" ", "").split(",") if isinstance(parts, str) else parts
        paths = saved_paths(folder, name, self.names, parts)
        check_outputs(paths, folder=Path(folder), overwrite=overwrite)
        if "scores" in parts and self.scores is None:
            raise UserError("scores can be saved if they were asked for: with_scores=True")
        contents = {
            "labels": lambda: [drawing.label_map_image(paths[0], self.labels, class_palette(self.names))],
            "overlay": lambda: [self.overlay(opacity, outline)],
            "masks": lambda: [Image.fromarray(self.mask(name)).convert("L") for name in self.names],
            "scores": lambda: [_npz(names=np.array(self.names), scores=self.scores.astype(np.float16))],
            "json": lambda: [as_json(self.to_coco(file_name=name))],
            "label_studio": lambda: [as_json([self.to_label_studio(name)])],
        }
        files = [file for part in PARTS if part in parts for file in contents[part]()]
        drawing.write_images(dict(zip(paths, files, strict=True)))
        return paths


def _npz(**arrays: np.ndarray) -> bytes:
    np.savez(file := io.BytesIO(), mark=np.bytes_(MARKS[1]), **arrays)  # so that it may be replaced
    return file.getvalue()


def saved_paths(folder: str | Path, name: str, names: Sequence[str], parts: Sequence[str]) -> list[Path]:
    """Files of some of PARTS: name.png, name_overlay.png, name_mask_<class>.png, name_scores.npz, name.json, …"""
    if unknown := [part for part in parts if part not in PARTS]:
        raise UserError(f"parts to save: {', '.join(unknown)} is not known: choose from {', '.join(PARTS)}")
    masks = ["_mask_" + re.sub(r"[^\w-]+", "_", text) + ".png" for text in names]
    ends = [".png"], ["_overlay.png"], masks, ["_scores.npz"], [".json"], ["_label_studio.json"]
    chosen = (files for part, files in zip(PARTS, ends, strict=True) if part in parts)
    return [Path(folder) / f"{name}{end}" for files in chosen for end in files]


def classify(
    bands: Iterable[tuple[int, jt.Var]], image: np.ndarray, classes: ClassNames, threshold: float | None,
    with_scores: bool,
) -> Segmentation:  # fmt: skip
    """The segmentation that scores of all texts, in bands of rows as of `ImageScores.bands`, lead to."""
    import jittor as jt

    from jseg.engine.sliding_window import highest_classes

    count, groups, kept = len(classes.names), [*pairwise(classes.ends)], []
    confidence = np.empty(image.shape[:2], np.float32)

    def class_bands() -> Iterator[tuple[int, jt.Var]]:
        for start, scores in bands:
            if len(groups) < len(classes.texts):
                scores = jt.concat([scores[first:end].max(0, keepdims=True) for first, end in groups])
            own = scores[:count] if len(groups) > count else scores
            confidence[start : start + own.shape[1]] = own.max(0).numpy()
            kept.extend([own.numpy()] if with_scores else [])
            yield start, scores

    labels = highest_classes(class_bands(), image.shape[:2])
    labels[(labels == count) | (confidence < (-np.inf if threshold is None else threshold))] = NONE
    scores = np.concatenate(kept, axis=1) if with_scores else None
    seen = {classes.texts[place] for place in classes.seen}
    unseen = tuple(index for index, name in enumerate(classes.names) if seen and name not in seen)
    return Segmentation(labels, classes.names, scores, confidence, image, unseen)
