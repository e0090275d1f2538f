"""Images and label PNGs on disk: reading them, and telling cheaply which are missing, cut short or of a wrong kind.

OpenCV decodes images, Pillow label PNGs (OpenCV would turn palette entries into colours). OpenCV fills the missing part
of a cut-off JPEG with grey and believes the sizes that a header claims, so Pillow looks at every file first.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from jseg.errors import UserError

_HEADER_BYTES, _TAIL_BYTES = 32, 64
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_END_MARKS = {b"\xff\xd8\xff": b"\xff\xd9", _PNG_START: _PNG_END}  # how JPEG and PNG files start and end
_PNG_COLOUR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}


def _has_end_mark(content: bytes) -> bool:
    """Whether the end mark of a JPEG or PNG is the last thing in the file; padding after it is allowed."""
    tail = content[-_TAIL_BYTES:].rstrip(b"\0\r\n ")
    return any(content.startswith(start) and tail.endswith(end) for start, end in _END_MARKS.items())


def _decoding_problem(content: bytes, decode: bool = True) -> str:
    """What Pillow says is wrong with a file; "" when nothing. `decode=False`: look at header and PNG chunks only."""
    if not content:
        return "empty"
    if content.startswith(_PNG_START) and _PNG_END not in content:
        return "truncated"
    try:
        with Image.open(io.BytesIO(content)) as image:  # refuses sizes that nobody can decode
            if image.format == "PNG" and not decode:
                image.verify()  # every chunk: OpenCV takes memory for the lengths that they claim
            elif decode:
                image.load()
    except Image.UnidentifiedImageError:
        return "not an image"
    except Exception as error:  # decoders raise many types on damaged data; all of them are the file's fault
        return "truncated" if "truncated" in str(error).lower() else f"damaged: {error}"
    return ""


def _label_kind_problem(content: bytes) -> str:
    """Why a file with this header cannot be a label map; "" when it can."""
    if not content.startswith(_PNG_START):
        return "not a PNG" if content else "empty"
    depth, colour_type = content[24:26] if len(content) >= 26 else (0, 0)
    if colour_type == 3 or (colour_type == 0 and depth == 8):
        return ""
    kind = _PNG_COLOUR_TYPES.get(colour_type, "unknown")
    return f"{depth}-bit {kind} PNG, labels must be palette or 8-bit grey ones that hold class numbers"


def file_problem(path: str | Path, labels: bool = False) -> str:
    """Why `path` cannot be used as an image (`labels`: as a label PNG), from its first and last bytes; "" = it can.

    A file whose end looks wrong is decoded as a whole before it is called truncated.
    """
    if not os.path.isfile(path):
        return "not a regular file" if os.path.exists(path) else "missing"
    try:
        with open(path, "rb", buffering=0) as file:  # data sets have 100,000 files and more
            header = file.read(_HEADER_BYTES)
            length = file.seek(0, os.SEEK_END)
            file.seek(max(0, length - _TAIL_BYTES))
            tail = file.read()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if labels and (problem := _label_kind_problem(header)):
        return problem
    return "" if _has_end_mark(header + tail) else _decoding_problem(Path(path).read_bytes())


def _read_bytes(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def read_image(path: str | Path) -> np.ndarray:
    """Reads an image as (H, W, 3) uint8 RGB, turned as its EXIF orientation says. Of an animation the first image.

    Raises:
        UserError: missing, unreadable, truncated or no image; names the file.
    """
    path = Path(path)
    content = _read_bytes(path)
    if problem := _decoding_problem(content, decode=not _has_end_mark(content)):
        raise UserError(f"{path}: {problem}")
    try:
        is_webp = content[8:12] == b"WEBP"  # OpenCV ignores its orientation, else the pixels are the same
        image = None if is_webp else cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        if image is not None:
            return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        with Image.open(io.BytesIO(content)) as file:  # also what OpenCV cannot read, GIF for example
            return np.array(ImageOps.exif_transpose(file).convert("RGB"))
    except Exception as error:  # see _decoding_problem
        raise UserError(f"{path}: damaged: {error}") from error


def read_stored_labels(path: str | Path) -> np.ndarray:
    """Reads a label PNG as (H, W) uint8 palette entries or grey values, as they are stored.

    Raises:
        UserError: missing, unreadable, truncated, or a PNG of colours instead of class numbers; names the file.
    """
    path = Path(path)
    content = _read_bytes(path)
    if problem := _label_kind_problem(content) or _decoding_problem(content):
        raise UserError(f"{path}: {problem}")
    with Image.open(io.BytesIO(content)) as image:
        return np.array(image, dtype=np.uint8)
