"""jseg: zero-shot semantic segmentation with regional clues in CLIP (CLIP-RC, CVPR 2024), in Jittor."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jseg.runtime.prepare import prepare

if TYPE_CHECKING:
    from jseg.config import read_config
    from jseg.segmenter import Segmenter, load_segmenter

__all__ = ["Segmenter", "load_segmenter", "read_config"]
__version__ = "0.1.0"

_HOMES = {"Segmenter": "jseg.segmenter", "load_segmenter": "jseg.segmenter", "read_config": "jseg.config"}

prepare()


def __getattr__(name: str) -> Any:
    """Imports the public names when they are asked for: `import jseg` alone must stay quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'jseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
