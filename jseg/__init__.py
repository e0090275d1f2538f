"""jseg: zero-shot semantic segmentation with regional clues in CLIP (CLIP-RC, CVPR 2024), in Jittor."""

from jseg.runtime import prepare

__version__ = "0.1.0"

prepare()
