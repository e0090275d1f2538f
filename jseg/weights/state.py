"""Setting a module's weights from named arrays, all or nothing.

Jittor's own `load_parameters` skips what does not match, without an error: https://github.com/Jittor/jittor
"""

import ctypes
from collections.abc import Mapping, Sequence

import jittor as jt
import numpy as np
from jittor import nn

from jseg.errors import UserError, listed


def strict_load(module: nn.Module, tensors: Mapping[str, np.ndarray], source: str = "weights") -> None:
    """Sets every weight of `module` to the array of its state name, as float32; whether it trains is kept.

    Nothing is changed unless all match: UserError names `source` and the arrays that are missing, unknown, of another
    shape or not finite.
    """
    own: dict[str, jt.Var] = module.state_dict()
    both = [name for name in own if name in tensors]
    shapes = [(name, np.shape(tensors[name]), tuple(own[name].shape)) for name in both]
    problems = {
        "missing": [name for name in own if name not in tensors],
        "unknown": [name for name in tensors if name not in own],
        "other shape": [f"{name} is {found}, expected {wanted}" for name, found, wanted in shapes if found != wanted],
        "not finite": [name for name in both if not np.isfinite(tensors[name]).all()],
    }
    if any(problems.values()):
        lists = "; ".join(f"{what}: {listed(names, 20)}" for what, names in problems.items() if names)
        raise UserError(f"{source} do not fit this model: {lists}")
    for name, var in own.items():
        set_value(var, np.asarray(tensors[name]))
    getattr(ctypes.CDLL(None), "malloc_trim", bool)(0)  # glibc would keep what was freed meanwhile


def size_line(arrays: Mapping[str, np.ndarray], trained: Sequence[str]) -> str:
    """`model: 86.2 million weights, of which 2.1 million (2.4 %) are trained`, from named arrays."""
    total, own = (sum(arrays[name].size for name in names) for names in (arrays, trained))
    return f"model: {total / 1e6:.3g} million weights, of which {own / 1e6:.3g} million ({own / total:.1%}) are trained"


def set_value(var: jt.Var, value: np.ndarray) -> None:
    """Replaces the value of a weight by an array of its shape, as float32; whether it trains is kept."""
    keep_frozen_or_trained = var.stop_grad if var.is_stop_grad() else var.start_grad
    var.update(jt.array(np.ascontiguousarray(value, dtype=np.float32).reshape(tuple(var.shape))))
    keep_frozen_or_trained()


def state_arrays(module: nn.Module) -> dict[str, np.ndarray]:
    """A copy of all weights by state name."""
    return {name: var.numpy() for name, var in module.state_dict().items()}
