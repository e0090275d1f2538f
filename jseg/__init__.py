"""jseg: zero-shot semantic segmentation with regional clues in CLIP (CLIP-RC, CVPR 2024), in Jittor."""

import importlib
from typing import TYPE_CHECKING, Any

from jseg.runtime.prepare import prepare

if TYPE_CHECKING:
    from jseg.config import read_config
    from jseg.segmentation import Segmentation
    from jseg.segmenter import Segmenter, load_segmenter

__all__ = ["load_segmenter", "Segmenter", "Segmentation", "read_config"]
__version__ = "0.1.0"

_HOMES = dict.fromkeys(__all__, "jseg.segmenter")
_HOMES |= {"Segmentation": "jseg.segmentation", "read_config": "jseg.config"}

prepare()


def __getattr__(name: str) -> Any:
    """Imports the public names when they are asked for: `import jseg` alone must stay quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'jseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """All names, those that are not imported yet too: for completion and help(jseg)."""
    return sorted({*globals(), *__all__})
