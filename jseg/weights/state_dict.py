"""Finds the weights and the plain values beside them in whatever a training script saved."""

from __future__ import annotations

from typing import Any

import numpy as np

from jseg.weights.pickle_machine import ScriptObject
from jseg.weights.records import ArrayRecord, Budget, TensorRecord
from jseg.weights.refusal import FileRefused, quoted

WEIGHT_KEYS = ("state_dict", "model")  # where training scripts put the weights
MAX_DEPTH = 64  # nested TorchScript modules
MAX_PLAIN_DEPTH = 6
MAX_NODES = 200_000  # values visited; shared parts count every time, so that a small file cannot grow without end
PREFIX = "module."  # from PyTorch's DataParallel

Record = TensorRecord | ArrayRecord


def split_checkpoint(value: Any) -> tuple[dict[str, Record], dict[str, Any]]:
    """Splits an unpickled object into tensors and plain values.

    Args:
        value: a TorchScript module, a dictionary of tensors, or a dictionary that holds one under `state_dict` or
            `model`.

    Returns:
        Tensors by name, without the prefix `module.` that all of them may have, and the plain values beside them; what
        is stored under `meta` is merged into those.

    Raises:
        FileRefused: no tensors to be found.
    """
    if isinstance(value, ScriptObject):
        records: dict[str, Record] = {}
        _flatten(value, "", records, [MAX_NODES], 0)
        return named(records), {}
    meta: dict[str, Any] = {}
    for _ in range(len(WEIGHT_KEYS) + 1):
        if not isinstance(value, dict):
            raise FileRefused(f"it holds a {_kind(value)} where a dictionary of tensors was expected")
        inner = next((key for key in WEIGHT_KEYS if isinstance(value.get(key), (dict, ScriptObject))), None)
        if inner is None or any(isinstance(item, Record) for item in value.values()):
            break
        meta.update(_plain_values(value, inner))
        value = value[inner]
    if isinstance(value, ScriptObject):
        return split_checkpoint(value)[0], meta
    nested = [name for name, item in value.items() if isinstance(item, (dict, list)) and _holds_tensor(item)]
    if nested:
        raise FileRefused(f"{quoted(nested[0])} is no tensor but a collection of tensors: save a flat state_dict")
    meta.update(_plain_values(value, ""))
    return named({name: item for name, item in value.items() if isinstance(item, Record)}), meta


def arrays_of(records: dict[str, Record], file_size: int) -> dict[str, np.ndarray]:
    """Reads the tensors.

    Raises:
        FileRefused: a tensor that does not fit its data, with its name.
    """
    budget = Budget.of_file(file_size)
    arrays = {}
    for name, record in records.items():
        try:
            arrays[name] = record.array(budget)
        except FileRefused as error:
            raise FileRefused(f"tensor {quoted(name)}: {error}") from error
        except (ValueError, OverflowError, MemoryError) as error:
            raise FileRefused(f"tensor {quoted(name)} cannot be made ({quoted(str(error))[1:-1]})") from error
    return arrays


def named(records: dict[Any, Any]) -> dict[str, Any]:
    """Checks that all names are texts and drops a prefix `module.` that all have.

    Raises:
        FileRefused: no tensors, or one without a proper name.
    """
    if not records:
        raise FileRefused("it holds no tensors")
    for name in records:
        if not isinstance(name, str):
            raise FileRefused(f"a tensor is called {quoted(name)}, which is no text")
    if all(name.startswith(PREFIX) for name in records):
        return {name[len(PREFIX) :]: record for name, record in records.items()}
    return records


def _flatten(script: ScriptObject, prefix: str, found: dict[str, Record], budget: list[int], depth: int) -> None:
    """Collects the tensors of a TorchScript module and of those inside it, names joined by dots."""
    if depth > MAX_DEPTH:
        raise FileRefused(f"its modules are nested more than {MAX_DEPTH} deep")
    for name, item in script.attributes.items():
        budget[0] -= 1
        if budget[0] < 0:
            raise FileRefused(f"it has more than {MAX_NODES} attributes")
        if isinstance(item, ScriptObject):
            _flatten(item, f"{prefix}{name}.", found, budget, depth + 1)
        elif isinstance(item, Record):
            found[f"{prefix}{name}"] = item


def _holds_tensor(item: dict | list) -> bool:
    values = item.values() if isinstance(item, dict) else item
    return any(isinstance(value, Record) for value in values)


def _kind(value: Any) -> str:
    return "tensor" if isinstance(value, Record) else type(value).__name__


def _plain_values(container: dict, skip: str) -> dict[str, Any]:
    """Plain values of a checkpoint; those under its key `meta` are merged in."""
    budget = [MAX_NODES]
    result = {}
    for key, item in container.items():
        if isinstance(key, str) and key != skip:
            plain = _plain(item, budget, 0)
            if plain is not None:
                result[key] = plain
    inner = result.pop("meta", None)
    return {**result, **inner} if isinstance(inner, dict) else result


def _plain(value: Any, budget: list[int], depth: int) -> Any:
    """A copy of `value` if it is made of plain values alone, else None."""
    budget[0] -= 1
    if budget[0] < 0:
        raise FileRefused(f"it has more than {MAX_NODES} values beside the weights")
    if isinstance(value, (str, int, float, bool)):
        return value
    if depth >= MAX_PLAIN_DEPTH:
        return None
    if isinstance(value, (list, tuple)):
        items = [_plain(item, budget, depth + 1) for item in value]
        return None if any(item is None for item in items) else items
    if isinstance(value, dict):
        items = {key: _plain(item, budget, depth + 1) for key, item in value.items() if isinstance(key, str)}
        return {key: item for key, item in items.items() if item is not None}
    return None
