"""Pictures and label PNGs on disk: reading them, and telling cheaply which are missing, cut short or of a wrong kind.

OpenCV fills the missing part of a cut-off JPEG with grey without an error, so the end of every file is looked at first.
Label PNGs are read with Pillow, because OpenCV turns palette entries into colours.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from jseg.errors import UserError

_HEADER_BYTES = 32
_TAIL_BYTES = 64
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_PNG_COLOUR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
_MOST_PIXELS = 2 * 89_478_485  # where Pillow refuses too
_MOST_PIXELS_PER_BYTE = 8500  # a blank PNG of one bit a pixel has 8256, the most that its compression gives


def _decoder_complaint(error: Exception) -> str:
    """What a decoder's exception says of the file; Pillow words a file that is cut off in several ways."""
    return "truncated" if "truncated" in str(error).lower() else f"damaged: {error}"


def _size_problem(content: bytes) -> str:
    """Why a picture of the size that its header claims cannot be, or is too large to decode; "" when it is fine.

    Without it a header that lies would cost gigabytes of memory before the data turn out to be missing.
    """
    if content.startswith(_PNG_START) and len(content) >= 24:
        width, height = struct.unpack(">II", content[16:24])
    elif content.startswith(_JPEG_START):
        try:
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
        except Exception as error:  # decoders raise many types
            return _decoder_complaint(error)
    else:
        return ""
    if width * height > min(_MOST_PIXELS, _MOST_PIXELS_PER_BYTE * len(content)):
        return f"damaged: {width}x{height} pixels cannot lie in {len(content)} bytes"
    return ""


def _chunk_problem(content: bytes) -> str:
    """Whether the parts of a PNG have the lengths that they claim; OpenCV takes memory for them before it looks."""
    place, kind = len(_PNG_START), b""
    while content.startswith(_PNG_START) and kind != b"IEND":
        length, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        if place + 12 + length > len(content) or (kind == b"IHDR") != (place == len(_PNG_START)):
            return "damaged: its parts do not fit together"
        place += 12 + length
    return ""


def _ends_early(header: bytes, tail: bytes) -> bool:
    """Whether the end mark of a JPEG or PNG is not the last thing in the file; padding after it is allowed."""
    tail = tail.rstrip(b"\0\r\n ")
    if header.startswith(_JPEG_START):
        return not tail.endswith(_JPEG_END)
    return header.startswith(_PNG_START) and not tail.endswith(_PNG_END)


def _decoding_problem(content: bytes) -> str:
    """What is wrong with the content of a file, decoded as a whole; "" when nothing is."""
    if content.startswith(_PNG_START) and _PNG_END not in content:
        return "truncated"
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except Image.UnidentifiedImageError:
        return "not a picture"
    except Exception as error:  # decoders raise many types on damaged data; all of them are the file's fault
        return _decoder_complaint(error)
    return ""


def _label_kind_problem(header: bytes) -> str:
    """Why a file with this header cannot be a label map; "" when it can."""
    if not header.startswith(_PNG_START):
        return "not a PNG"
    depth, colour_type = header[24:26] if len(header) >= 26 else (0, 0)
    if colour_type == 3 or (colour_type == 0 and depth == 8):
        return ""
    kind = _PNG_COLOUR_TYPES.get(colour_type, "unknown")
    return f"{depth}-bit {kind} PNG, labels must be palette or 8-bit grey ones that hold class numbers"


def file_problem(path: str | Path, labels: bool = False) -> str:
    """Why `path` cannot be used as a picture (`labels`: as a label PNG), from its first and last bytes; "" = it can.

    A file whose end looks wrong is decoded as a whole before it is called truncated.
    """
    try:
        file = os.open(path, os.O_RDONLY)  # plain system calls: data sets have 100,000 files and more
        try:
            header = os.read(file, _HEADER_BYTES)
            length = os.lseek(file, 0, os.SEEK_END)
            os.lseek(file, max(0, length - _TAIL_BYTES), os.SEEK_SET)
            tail = os.read(file, _TAIL_BYTES)
        finally:
            os.close(file)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not length:
        return "empty"
    known = header.startswith((_JPEG_START, _PNG_START))
    problem = _label_kind_problem(header) if labels else ""
    if not problem and (not known or _ends_early(header, tail)):
        problem = _decoding_problem(Path(path).read_bytes())
    return problem


def read_image(path: str | Path) -> np.ndarray:
    """Reads a picture as (H, W, 3) uint8 RGB, turned as its EXIF orientation says.

    Raises:
        UserError: missing, unreadable, truncated or no picture; names the file.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    problem = _size_problem(content) if content else "empty"
    if content and not problem and _ends_early(content[:_HEADER_BYTES], content[-_TAIL_BYTES:]):
        problem = _decoding_problem(content)
    if problem := problem or _chunk_problem(content):
        raise UserError(f"{path}: {problem}")
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise UserError(f"{path}: damaged: {error}") from error
    if image is None:
        raise UserError(f"{path}: {_decoding_problem(content) or 'a kind of picture that OpenCV cannot read'}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_stored_labels(path: str | Path) -> np.ndarray:
    """Reads a label PNG as (H, W) uint8 palette entries or grey values, as they are stored.

    Raises:
        UserError: missing, unreadable, truncated, or a PNG of colours instead of class numbers; names the file.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    problem = _label_kind_problem(content[:_HEADER_BYTES]) or _size_problem(content) or _decoding_problem(content)
    if problem:
        raise UserError(f"{path}: {problem}")
    with Image.open(io.BytesIO(content)) as image:
        return np.array(image, dtype=np.uint8)
