"""Which operators run: the environment variable decides."""

from __future__ import annotations

import pytest

from jseg.errors import UserError
from jseg.ops import compiled


def test_plain_when_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JSEG_KERNELS", raising=False)
    assert compiled.implementation() == "compiled"
    monkeypatch.setenv("JSEG_KERNELS", "plain")
    assert compiled.implementation() == "plain"
    monkeypatch.setenv("JSEG_KERNELS", "fast")
    with pytest.raises(UserError, match="JSEG_KERNELS"):
        compiled.implementation()
