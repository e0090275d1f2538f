"""Which operators run, and that the C++ kernels compile without warnings."""

import shutil
import subprocess
from pathlib import Path

import pytest

from jseg.errors import UserError
from jseg.ops import compiled


def test_an_unknown_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSEG_KERNELS", "fast")
    with pytest.raises(UserError, match="JSEG_KERNELS='fast': choose from auto, plain"):
        compiled.compiled()


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
