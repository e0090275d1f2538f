"""Which operators run, by environment variable and config key; and that the C++ kernels compile without warnings."""

from __future__ import annotations

import shutil
import subprocess
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
    monkeypatch.setenv("JSEG_KERNELS", "fast")
    with pytest.raises(UserError, match="JSEG_KERNELS='fast': choose from auto, plain"):
        compiled.implementation()


def test_the_key_is_checked() -> None:
    assert KERNELS == compiled.CHOICES
    assert read_config(CONFIG, ["kernels=plain"]).kernels == "plain"
    with pytest.raises(UserError, match="kernels"):
        read_config(CONFIG, ["kernels=fast"])


@pytest.mark.parametrize("flags", ["-O3 -march=native", "-Ofast -mavx2 -mfma", "-O2"])
def test_kernels_compile_on_their_own_without_warnings(flags: str, tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ on PATH")
    headers = sorted(compiled.FOLDER.glob("*.h"))
    assert headers
    source = tmp_path / "all.cc"
    source.write_text("".join(f'#include "{header.name}"\n' for header in headers))
    warnings = "-std=c++14 -fopenmp -Wall -Wextra -Werror -Wno-unused-function -Wno-psabi"
    options = f"{flags} {warnings} -I{compiled.FOLDER} -c {source} -o /dev/null"
    finished = subprocess.run([compiler, *options.split()], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
