"""Strict loading of named arrays."""

import jittor as jt
import numpy as np
import pytest
from jittor import nn

from jseg.errors import UserError
from jseg.weights.state import state_arrays, strict_load


class Pair(nn.Module):
    """Two weights, one of them frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.first = jt.zeros((2, 3))
        self.second = jt.zeros(4).stop_grad()


def arrays() -> dict[str, np.ndarray]:
    return {"first": np.arange(6.0).reshape(2, 3), "second": np.ones(4, np.float16)}


def test_values_are_set_as_float32_and_frozen_stays_frozen() -> None:
    module = Pair()
    strict_load(module, arrays())
    for name, value in state_arrays(module).items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, arrays()[name])
    assert not module.first.is_stop_grad()
    assert module.second.is_stop_grad()
    assert np.abs(jt.grad((module.first * 2).sum(), module.first).numpy()).max() == 2
    state_arrays(module)["first"][:] = 7  # a copy
    assert module.first.numpy().max() == 5


@pytest.mark.parametrize(("change", "message"), [
    ({"second": np.ones(5)}, r"other shape: second is \(5,\), expected \(4,\)"),
    ({"second": None, "x": np.ones(1)}, "missing: second; unknown: x"),
    ({"first": np.full((2, 3), -np.inf, np.float16)}, "not finite: first"),
])  # fmt: skip
def test_mismatch_names_the_weights_and_changes_nothing(change: dict, message: str) -> None:
    module = Pair()
    given = {name: value for name, value in (arrays() | change).items() if value is not None}
    with pytest.raises(UserError, match=f"some.pth do not fit this model: {message}"):
        strict_load(module, given, "weights of some.pth")
    assert np.abs(module.first.numpy()).max() == 0
