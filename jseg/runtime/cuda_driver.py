"""What the NVIDIA driver tells: the newest CUDA that it runs and the GPUs' compute capabilities. Imports no Jittor.

The numbers of the functions' arguments are those of `cuda.h` (CUDA driver API).
"""

from __future__ import annotations

import ctypes
from pathlib import Path

from jseg.errors import UserError

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_…


def _library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def has_gpu_device() -> bool:
    """Whether this system (or container) shows a GPU: `/dev/nvidia0`…, or `/dev/dxg` under Windows' WSL."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()


def driver_cuda() -> tuple[int, int] | None:
    """(major, minor) of the newest CUDA that the driver runs; None without a driver. Starts nothing on the GPU."""
    library, version = _library(), ctypes.c_int()
    if library is None or library.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return version.value // 1000, version.value % 1000 // 10


def capabilities() -> list[int]:
    """Compute capabilities of the visible GPUs, each once and in order: 80 for 8.0, 90 for 9.0.

    Empty when the driver shows none. This starts the driver, which takes some tenths of a second.
    """
    library, count = _library(), ctypes.c_int()
    if library is None or library.cuInit(0) != 0 or library.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    found = set()
    for index in range(count.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        library.cuDeviceGet(ctypes.byref(device), index)
        library.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
        library.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
        found.add(10 * major.value + minor.value)
    return sorted(found)


def used_memory() -> int:
    """Bytes of the GPU's memory that are taken, by any process; to be asked once Jittor computes on it.

    Raises:
        UserError: the driver does not tell.
    """
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    library = _library()
    if library is None or library.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) != 0:
        raise UserError("the NVIDIA driver does not tell how much of the GPU's memory is taken: see `nvidia-smi`")
    return total.value - free.value
