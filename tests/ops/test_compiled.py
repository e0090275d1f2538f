"""Which operators run: the environment variable and the config key."""

from __future__ import annotations

from pathlib import Path

import pytest

from jseg.config import KERNELS, read_config
from jseg.errors import UserError
from jseg.ops import compiled

CONFIG = Path(__file__).parents[2] / "configs" / "shapes_demo.py"


def test_plain_when_the_environment_or_the_configuration_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_chosen", "auto")
    monkeypatch.delenv("JSEG_KERNELS", raising=False)
    assert compiled.implementation() == "compiled"
    monkeypatch.setenv("JSEG_KERNELS", "plain")
    assert compiled.implementation() == "plain"
    monkeypatch.setenv("JSEG_KERNELS", "auto")
    compiled.choose("plain")
    assert compiled.implementation() == "plain"


def test_the_key_is_checked() -> None:
    assert KERNELS == compiled.CHOICES
    assert read_config(CONFIG, ["kernels=plain"]).kernels == "plain"
    with pytest.raises(UserError, match="kernels"):
        read_config(CONFIG, ["kernels=fast"])
