"""Tests of the units of Jittor's core: what they link to, and what remains where they do not compile."""

import ctypes
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import jittor as jt
import numpy as np
import pytest

from jseg.runtime import toolchain, units


@pytest.mark.parametrize("clash", [False, True])
def test_a_unit_links_to_what_its_files_hold(clash: bool, tmp_path: Path) -> None:
    source, cache, ran = tmp_path / "src" / "ops", tmp_path / "cache", []
    for folder in (source, cache / "gen"):
        folder.mkdir(parents=True)
    objects = [cache / f"{name}.cc.o" for name in "abc"]
    for number, path in enumerate(objects):
        text = f"struct Same {{ int numbers[{number + 1}]; }};\n" if clash else ""
        text += f'static auto same = {number};\nextern "C" int {path.name[0]}() {{ return same; }}\n#define int none\n'
        (source / path.stem).write_text(text)
    commands = [f'"g++" "{source / path.stem}" -fPIC -I"{tmp_path / "src"}" -O2 -c -o "{path}"' for path in objects]

    def run(commands: list[str], *_: object) -> None:
        ran.append(len(commands))
        for command in commands:
            subprocess.run(command, shell=True, check=True, stderr=subprocess.DEVNULL)
            Path(command.split('"')[-2] + ".key").write_text(f"{command}\n")

    jittor_utils = SimpleNamespace(run_cmd=None, run_cmds=run, pool_size=0)
    units.install(jittor_utils)
    for _ in range(2):
        jittor_utils.run_cmds(commands[::-1], str(cache), str(tmp_path))
    assert ran == ([1, 3, 3] if clash else [1, 1])  # what was compiled file by file stays so
    subprocess.run(["g++", "-shared", *objects, "-o", tmp_path / "all.so"], check=True)
    library = ctypes.CDLL(str(tmp_path / "all.so"))
    assert [library.a(), library.b(), library.c()] == [0, 1, 2]


def test_a_late_compile_thread_is_waited_for(tmp_path: Path) -> None:
    """Jittor's own text is as the fix expects it, and Jittor compiles what is fixed."""
    source = Path(toolchain.jittor_folder()) / "src" / units.FIXED
    command = units.fixed(f'"g++" "{source}" -c -o "a.o"', tmp_path)
    before, after = source.read_text(encoding="utf-8"), (tmp_path / units.FIXED).read_text(encoding="utf-8")
    found = [(before.count(old), after.count(new)) for old, new in units.FIXES.items()]
    assert found == [(1, 1), (1, 1), (2, 2)]
    assert command == f'"g++" "{tmp_path / units.FIXED}" -c -o "a.o"'
    built = next((Path(jt.compiler.cache_path) / "obj_files").glob(f"{units.FIXED}.o.key"))
    assert f'"{Path(jt.compiler.cache_path) / units.FIXED}"' in built.read_text()


def test_kernels_that_call_python_are_compiled_by_the_main_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    called, call = [], jt.python_pass_wrapper
    monkeypatch.setattr(jt, "python_pass_wrapper", lambda *x: called.append(threading.get_ident()) or call(*x))
    source = """__inline_static__
        @python.jittor.auto_parallel(1)
        void one(int n0, int i0, in0_type* x, out0_type* y) { y[i0] = x[i0] + (%s); }
        one(in0->num, 0, in0_p, out0_p);"""
    x, new = jt.float32([1, 2]), np.random.default_rng().integers(2**40)  # kernels that no cache holds
    sources = [source % f"{number} + {new} - {new}" for number in (0, 1)]
    both = [jt.code(x.shape, x.dtype, [x], cpu_src=text, cuda_src=text) for text in sources]
    assert np.stack(jt.fetch_sync(both)).tolist() == [[1, 2], [2, 3]]
    assert called == 2 * [threading.get_ident()]


def test_what_hides_the_names_behind_it_is_compiled_alone() -> None:
    """Where Jittor is compiled for CUDA: hidden names of other libraries cannot be linked."""
    sources = (path for name in units.FOLDERS for path in (Path(toolchain.jittor_folder()) / "src" / name).glob("*.cc"))
    hiding = {path.name for path in sources if "visibility push" in path.read_text(encoding="utf-8")}
    assert hiding == {"array_op.cc", "fetch_op.cc"} and hiding <= set(units.ALONE)
