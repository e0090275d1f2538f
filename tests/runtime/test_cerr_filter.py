"""Tests of the filter on std::cerr, with a small C++ program that writes as Jittor does."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "jseg" / "runtime" / "cerr_filter.cc"

# Reports progress exactly as jittor/src/parallel_compiler.cc does.
PROGRAM = r"""
#include "SOURCE"
#include <iomanip>
#include <thread>

void report(int steps) {
    std::cerr << "\n";
    for (int i = 1; i <= steps; i++)
        std::cerr << "Compiling Operators(" << i << '/' << steps << ")" << " used: " << std::setprecision(3)
                  << std::setw(4) << 2.5 << "s eta: " << std::setprecision(3) << std::setw(4) << 0.5 << "s \r";
    std::cerr << std::endl;
}

int main(int, char** arguments) {
    jseg_filter_cerr(arguments[1]);
    std::cerr << "before" << std::endl;
    report(3);
    std::cerr << "[e 0101 file.cc:1] real error\n";
    report(1);
    std::cerr << "unfinished ";
    std::cerr << "line" << 42 << '!' << "\n";
    std::cerr << "\n" << "after an empty line" << std::endl;
    std::thread other([] { for (int i = 0; i < 200; i++) std::cerr << "error of another thread\n"; });
    for (int i = 0; i < 50; i++) report(2);
    other.join();
    std::cerr << "Compiling is not progress" << std::endl;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled program."""
    compiler = os.environ.get("cc_path") or shutil.which("g++")
    if not compiler:
        pytest.skip("there is no g++")
    folder = tmp_path_factory.mktemp("filter")
    (folder / "program.cc").write_text(PROGRAM.replace("SOURCE", str(SOURCE)))
    command = [compiler, "-std=c++14", "-Wall", "-Wextra", "-Werror", "-pthread", "program.cc", "-o", "program"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "program"


@pytest.mark.parametrize("notice", ["NOTICE\n", ""])
def test_progress_becomes_one_notice_and_all_else_passes(program: Path, notice: str) -> None:
    done = subprocess.run([str(program), notice], capture_output=True, text=True, check=True)
    expected = ["before", *notice.split(), "[e 0101 file.cc:1] real error", "unfinished line42!", ""]
    expected += ["after an empty line", *["error of another thread"] * 200, "Compiling is not progress"]
    assert done.stderr.splitlines() == expected
