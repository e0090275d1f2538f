"""Images (by OpenCV) and label PNGs (by Pillow) as arrays, or one sentence that says what is wrong with the file.

OpenCV fills missing parts of a JPEG with grey and believes the sizes in a header, so Pillow looks at every file first.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from jseg.errors import UserError
from jseg.files import open_regular

_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_PNG_COLOUR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}


@contextmanager
def _content(path: str | Path) -> Iterator[bytes]:
    """Yields the bytes of a file and turns whatever a decoder raises on them into one sentence that names the file."""
    with open_regular(path) as file:
        content = file.read()
    try:
        if content.startswith(_PNG_START) and _PNG_END not in content:
            raise ValueError("truncated")
        yield content
    except UserError:
        raise
    except Exception as error:
        problem = "truncated" if "truncated" in str(error).lower() else f"damaged: {error}"
        problem = "not an image" if isinstance(error, Image.UnidentifiedImageError) else problem
        raise UserError(f"{path}: {problem}") from error


def read_image(path: str | Path) -> np.ndarray:
    """Reads an image as (H, W, 3) uint8 RGB, turned as its EXIF orientation says; UserError names a bad file."""
    with _content(path) as content:
        tail = content[-64:].rstrip(b"\0\r\n ")  # padding may follow the end mark
        with Image.open(io.BytesIO(content)) as image:  # refuses sizes that nobody can decode
            if content.startswith(_PNG_START) and tail.endswith(_PNG_END):
                image.verify()  # every chunk: OpenCV takes memory for the lengths that they claim
            elif not (content.startswith(b"\xff\xd8\xff") and tail.endswith(b"\xff\xd9")):
                image.load()
        is_webp = content[8:12] == b"WEBP"  # OpenCV ignores its orientation, else the pixels are the same
        pixels = None if is_webp else cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        if pixels is not None:
            return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        with Image.open(io.BytesIO(content)) as image:  # also what OpenCV cannot read, GIF for example
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def read_stored_labels(path: str | Path) -> np.ndarray:
    """Reads a label PNG as (H, W) uint8 palette entries or grey values; UserError names a bad or RGB-encoded file."""
    with _content(path) as content:
        if not content.startswith(_PNG_START):
            raise UserError(f"{path}: not a PNG")
        depth, colour_type = content[24:26]
        if colour_type != 3 and (colour_type, depth) != (0, 8):
            kind = f"{depth}-bit {_PNG_COLOUR_TYPES.get(colour_type, 'unknown')} PNG"
            raise UserError(f"{path}: {kind}, labels must be palette or 8-bit grey ones that hold class numbers")
        with Image.open(io.BytesIO(content)) as image:
            return np.array(image, dtype=np.uint8)
