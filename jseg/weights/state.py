"""Setting a module's weights from named arrays, all or nothing.

Jittor's own `load_parameters` skips what does not match, without an error: https://github.com/Jittor/jittor
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import jittor as jt
import numpy as np
from jittor import nn

from jseg.errors import UserError

LONGEST_LIST = 20  # names in an error message


def named_list(names: Collection[str]) -> str:
    """`a, b, c`, cut after the first ones."""
    names = list(names)
    more = f" and {len(names) - LONGEST_LIST} more" if len(names) > LONGEST_LIST else ""
    return ", ".join(names[:LONGEST_LIST]) + more


def strict_load(module: nn.Module, tensors: Mapping[str, np.ndarray], source: str = "weights") -> None:
    """Sets every weight of `module`; nothing is changed unless all match.

    Args:
        tensors: one array per state name, any float type; stored as float32. Whether a weight trains is kept.
        source: what the arrays come from, for the error.

    Raises:
        UserError: missing, unknown or differently shaped arrays, with their names.
    """
    own: dict[str, jt.Var] = module.state_dict()
    problems = []
    if missing := [name for name in own if name not in tensors]:
        problems.append(f"missing: {named_list(missing)}")
    if unknown := [name for name in tensors if name not in own]:
        problems.append(f"unknown: {named_list(unknown)}")
    wrong = [
        f"{name} is {tuple(tensors[name].shape)}, expected {tuple(var.shape)}"
        for name, var in own.items()
        if name in tensors and tuple(tensors[name].shape) != tuple(var.shape)
    ]
    if wrong:
        problems.append(f"other shape: {named_list(wrong)}")
    if problems:
        raise UserError(f"{source} do not fit this model: {'; '.join(problems)}")
    for name, var in own.items():
        set_value(var, np.asarray(tensors[name]))


def set_value(var: jt.Var, value: np.ndarray) -> None:
    """Replaces the value of a weight by an array of its shape, as float32; whether it trains is kept."""
    frozen = var.is_stop_grad()
    var.update(jt.array(np.ascontiguousarray(value, dtype=np.float32).reshape(tuple(var.shape))))
    if frozen:
        var.stop_grad()
    else:
        var.start_grad()


def state_arrays(module: nn.Module) -> dict[str, np.ndarray]:
    """A copy of all weights by state name."""
    return {name: var.numpy() for name, var in module.state_dict().items()}
