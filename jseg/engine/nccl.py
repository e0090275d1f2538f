"""Adds gradients up between GPUs through NVIDIA's NCCL, without a detour over main memory; NCCL is loaded, not built.

https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html: the numbers of types and operations are those of
`nccl.h` (version 2). All calls are queued on CUDA's default stream, on which Jittor computes too.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jittor as jt

LIBRARY = "libnccl.so.2"
WHEELS = "nvidia-nccl-cu12 or nvidia-nccl-cu13"
_FLOAT32, _SUM = 7, 0


class _UniqueId(ctypes.Structure):
    """What the processes of a communicator know each other by."""

    _fields_ = (("bytes", ctypes.c_byte * 128),)


def load() -> ctypes.CDLL | None:
    """NCCL of the system or of a wheel; None when there is none."""
    wheel = importlib.util.find_spec("nvidia")
    folders = [Path(folder) / "nccl" / "lib" for folder in (wheel.submodule_search_locations or [] if wheel else [])]
    for place in (LIBRARY, *(str(folder / LIBRARY) for folder in folders)):
        try:
            return ctypes.CDLL(place)
        except OSError:
            continue
    return None


class Nccl:
    """The GPUs of all ranks, each of which has one.

    Args:
        library: of `load`.
        rank, world: of this process.
        of_first: gives every process the first one's value.
    """

    def __init__(self, library: ctypes.CDLL, rank: int, world: int, of_first: Callable[[Any], Any]) -> None:
        self._library, self._communicator = library, ctypes.c_void_p()
        unique = _UniqueId()
        if rank == 0:
            self._check(library.ncclGetUniqueId(ctypes.byref(unique)))
        unique = _UniqueId.from_buffer_copy(of_first(bytes(unique)))
        self._check(library.ncclCommInitRank(ctypes.byref(self._communicator), world, unique, rank))

    def _check(self, code: int) -> None:
        if code != 0:
            self._library.ncclGetErrorString.restype = ctypes.c_char_p
            raise RuntimeError(f"NCCL: {self._library.ncclGetErrorString(code).decode()}")

    def sum(self, variables: list[jt.Var]) -> list[jt.Var]:
        """Sums of float32 Vars over all ranks, in one exchange."""
        calls = [f"add(in{index}_p, out{index}_p, in{index}->num);" for index in range(len(variables))]
        source = f"""
            typedef int (*Plain)();
            typedef int (*AllReduce)(const void*, void*, size_t, int, int, void*, void*);
            const auto address = [&](const char* name) {{ return (void*)(size_t)data[name]; }};
            int problem = ((Plain)address("start"))();
            const auto add = [&](const void* own, void* sum, size_t count) {{
                const auto all_reduce = (AllReduce)address("all_reduce");
                if (problem) return;
                problem = all_reduce(own, sum, count, {_FLOAT32}, {_SUM}, address("communicator"), nullptr);
            }};
            {" ".join(calls)}
            const int end = ((Plain)address("end"))();
            if (problem || end) throw std::runtime_error("NCCL: all-reduce failed");
            """
        functions = {"start": "ncclGroupStart", "all_reduce": "ncclAllReduce", "end": "ncclGroupEnd"}
        places = {key: ctypes.cast(getattr(self._library, name), ctypes.c_void_p) for key, name in functions.items()}
        places["communicator"] = self._communicator
        # addresses have at most 47 bits, so they pass as floating-point numbers; on a CPU only tests come here
        addresses = {key: float(place.value) for key, place in places.items()}
        shapes, dtypes = [list(x.shape) for x in variables], ["float32"] * len(variables)
        header = "#include <stdexcept>\n"
        sums = jt.code(
            shapes, dtypes, variables, data=addresses, cpu_header=header, cpu_src=source, cuda_header=header,
            cuda_src=source,
        )  # fmt: skip
        sums = list(sums) if isinstance(sums, (list, tuple)) else [sums]
        jt.sync(sums)
        return [variable.stop_grad() for variable in sums]
