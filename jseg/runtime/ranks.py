"""Several processes ("ranks", started by mpirun or srun) that train and evaluate as one, and what they exchange.

Each computes a share of the batch, and sums are added up: through MPI (mpi4py), in main memory, or between GPUs through
NCCL. Jittor's own MPI support stays off: it averages every gradient in a call of its own.
"""

from __future__ import annotations

from jseg.runtime.command_line import exit_code

import ctypes
import importlib.util
import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jseg.errors import UserError
from jseg.runtime.toolchain import output_of

if TYPE_CHECKING:  # imported where they are used: claim_gpu must come before Jittor starts
    import jittor as jt
    from mpi4py import MPI

# set by launchers for the processes that they start: mpirun of Open MPI, mpiexec of MPICH and Intel, srun
SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
ALL_REDUCE = """  // docs.nvidia.com/deeplearning/nccl/user-guide/docs/api.html: ncclFloat32 7, ncclFloat64 8, ncclSum 0
    typedef int (*Plain)();
    typedef int (*AllReduce)(const void*, void*, size_t, int, int, void*, void*);
    const auto address = [&](const char* name) { return (void*)(size_t)data[name]; };
    int problem = ((Plain)address("ncclGroupStart"))();
    const auto add = [&](const void* own, void* sum, size_t count, int type) {
        const auto all_reduce = (AllReduce)address("ncclAllReduce");
        if (!problem) problem = all_reduce(own, sum, count, type, 0, address("communicator"), nullptr);
    };
    CALLS
    const int end = ((Plain)address("ncclGroupEnd"))();
    if (problem || end) throw std::runtime_error("NCCL: all-reduce failed");
"""


class UniqueId(ctypes.Structure):
    """Name of a communicator (ncclUniqueId)."""

    _fields_ = (("bytes", ctypes.c_byte * 128),)


class Ranks:
    """This process among those of a run (of one without `communicator`): all call every method, in the same order."""

    def __init__(self, communicator: MPI.Intracomm | None = None) -> None:
        self._communicator = communicator
        self.rank, self.world = (communicator.rank, communicator.size) if communicator is not None else (0, 1)
        self.first = self.rank == 0  # the process that prints and writes files
        # addresses of NCCL's functions and of its communicator; empty = gradients go through main memory
        self._nccl: dict[str, float] = {}

    def sum(self, array: np.ndarray) -> np.ndarray:
        """The sum over all ranks, the same on each of them; `array` keeps its value."""
        total = np.array(array)
        if self.world > 1:
            from mpi4py import MPI

            self._communicator.Allreduce(MPI.IN_PLACE, total)
        return total

    def total(self, value: jt.Var) -> jt.Var:
        """The sum over all ranks of a float32 Var; the host waits for it only where there is no NCCL."""
        return self._sums([value])[0] if self.world > 1 else value

    def first_of(self, value: jt.Var) -> jt.Var:
        """The first rank's float32 Var on every rank, bit for bit: a sum with zeros."""
        import jittor as jt

        return self.total(value if self.first else jt.zeros_like(value))

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on any rank."""
        return bool(self.sum(np.int32(flag)))

    def broadcast(self, value: Any) -> Any:
        """The first rank's value, on every rank."""
        return self._communicator.bcast(value) if self.world > 1 else value

    def all_gather(self, value: Any) -> list[Any]:
        """The values of all ranks in their order."""
        return self._communicator.allgather(value) if self.world > 1 else [value]

    def sum_gradients(self, gradients: list[jt.Var], numbers: jt.Var) -> tuple[list[jt.Var], jt.Var]:
        """Sums over all ranks of gradients, as float32 (one rank: unchanged), and of (N,) float64 numbers."""
        if self.world == 1:
            return gradients, numbers
        gradients = [gradient.float32() for gradient in gradients]
        if self._nccl:
            *gradients, numbers = self._sums([*gradients, numbers])
            return gradients, numbers
        return self._sums(gradients), *self._sums([numbers])

    def _sums(self, values: list[jt.Var]) -> list[jt.Var]:
        """Sums over several ranks of float32 or float64 Vars, in one exchange; only through NCCL types may differ."""
        import jittor as jt

        if self._nccl:  # on CUDA's default stream, as Jittor's own
            types, codes = [str(value.dtype) for value in values], {"float32": 7, "float64": 8}
            calls = (f"add(in{i}_p, out{i}_p, in{i}->num, {codes[kind]});" for i, kind in enumerate(types))
            source, header = ALL_REDUCE.replace("CALLS", " ".join(calls)), "#include <stdexcept>\n"
            summed = jt.code(
                [list(value.shape) for value in values], types, values, data=self._nccl,
                cuda_header=header, cuda_src=source, cpu_header=header, cpu_src=source,  # on a CPU: tests
            )  # fmt: skip
            summed = list(summed) if isinstance(summed, (list, tuple)) else [summed]
            jt.sync(summed)  # now: all ranks must begin their exchanges in the same order
        else:
            total = self.sum(np.concatenate([value.numpy().ravel() for value in values]))
            parts = np.split(total, np.cumsum([value.numel() for value in values])[:-1])
            summed = [jt.array64(part.reshape(value.shape)) for part, value in zip(parts, values, strict=True)]
        return [value.stop_grad() for value in summed]

    def connect_gpus(self, device: str) -> str:
        """Lets gradients go from GPU to GPU where all ranks have NCCL; returns a line about it (or "")."""
        self.check_same("devices", device)
        if self.world == 1 or device != "cuda":
            return ""
        library, wheel = None, importlib.util.find_spec("nvidia")
        folders = wheel.submodule_search_locations or [] if wheel else []
        for place in ("libnccl.so.2", *(f"{folder}/nccl/lib/libnccl.so.2" for folder in folders)):
            with suppress(OSError):
                library = library or ctypes.CDLL(place)
        if self.any(library is None):
            return "gradients go through main memory (NCCL is missing: pip install nvidia-nccl-cu12 or -cu13)"
        unique, communicator = UniqueId(), ctypes.c_void_p()
        problem = library.ncclGetUniqueId(ctypes.byref(unique)) if self.first else 0
        unique = UniqueId.from_buffer_copy(self.broadcast(bytes(unique)))
        if problem := problem or library.ncclCommInitRank(ctypes.byref(communicator), self.world, unique, self.rank):
            raise RuntimeError(f"NCCL: error {problem} while connecting")
        names = ("ncclGroupStart", "ncclAllReduce", "ncclGroupEnd")
        places = {name: ctypes.cast(getattr(library, name), ctypes.c_void_p) for name in names}
        # addresses have at most 47 bits, so they pass to jt.code as floating-point numbers
        self._nccl = {name: float(place.value) for name, place in {**places, "communicator": communicator}.items()}
        return "gradients go through NCCL"

    def check_same(self, what: str, fingerprint: str) -> None:
        """Raises UserError unless every rank has the same `fingerprint`."""
        found = self.all_gather(fingerprint)
        if others := [str(rank) for rank, other in enumerate(found) if other != found[0]]:
            raise UserError(
                f"{what} of rank {', '.join(others)} differ from those of rank 0: give all processes the same files "
                "and packages, and the same kind of processor or GPU"
            )

    def find_place(self) -> tuple[int, int]:
        """(number of this process on its machine, processes on this machine)."""
        if self.world == 1:
            return 0, 1
        from mpi4py import MPI

        machine = self._communicator.Split_type(MPI.COMM_TYPE_SHARED)
        return machine.rank, machine.size


ALONE = Ranks()


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Yields this process's `Ranks`; an exception inside the `with` block ends all ranks, and the first one prints."""
    sizes = [os.environ[name] for name in SIZE_VARIABLES if os.environ.get(name, "").isdecimal()]
    started = int(sizes[0]) if sizes else 1  # processes
    if started == 1:
        yield ALONE
        return
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        reason = f"{str(error).splitlines()[0]}: apt-get install openmpi-bin, pip install mpi4py"
        raise UserError(f"{started} processes were started, but MPI cannot be used: {reason}") from error
    if MPI.COMM_WORLD.size != started:
        found = f"{MPI.Get_library_version().split(',')[0]} sees {MPI.COMM_WORLD.size}"
        raise UserError(f"{started} processes were started, but {found}: use its own mpirun, or srun --mpi=pmix")
    ranks, output = Ranks(MPI.COMM_WORLD), sys.stdout
    if not ranks.first:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # closed below
    try:
        yield ranks
    except BaseException as error:  # reports it and ends all ranks: a plain exit would leave the others waiting
        output.flush()
        with redirect_stderr(io.StringIO()) as message:  # printed at once: mpirun mixes the ranks' output
            code = exit_code(error)
        if not ranks.first:
            time.sleep(3)  # so that the first rank alone reports an error that all ranks share
        print(f"rank {ranks.rank}: " * (not ranks.first) + message.getvalue(), end="", file=sys.stderr, flush=True)
        MPI.COMM_WORLD.Abort(code)
        raise
    finally:
        if not ranks.first:
            sys.stdout.close()
        sys.stdout = output


def claim_gpu(ranks: Ranks, device: str) -> None:
    """Leaves this process one GPU of its machine; call it before Jittor starts."""
    number, count = ranks.find_place()
    if ranks.world == 1 or device == "cpu":
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    # not asked of the driver, which reads CUDA_VISIBLE_DEVICES once and for all; Windows' WSL has no /dev/nvidia0
    present = len([*Path("/dev").glob("nvidia[0-9]*")]) or output_of("nvidia-smi", "-L").count("(UUID: GPU-")
    gpus = [*map(str, range(present))] if visible is None else [] if visible in ("", "-1") else visible.split(",")
    if not gpus or (len(gpus) == 1 and "SLURM_STEP_ID" in os.environ):
        return  # start() says what is missing; or srun has given every process a GPU of its own
    if count > len(gpus):
        found = f"{count} processes on a machine with {len(gpus)} GPUs"
        raise UserError(f"{found}: start one for each, or use --device cpu")
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number]
