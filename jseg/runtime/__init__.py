"""Gets Jittor running on a bare machine: no download, no CUDA without a driver, one notice when kernels compile."""

from jseg.runtime.prepare import Preparation, prepare
from jseg.runtime.start import start

__all__ = ["Preparation", "prepare", "start"]
