"""Precompiled headers for Jittor's core and kernels: most of the time of a compilation is parsing.

GCC takes a `.gch` only where it was made with the same options, and else reads the header itself: slower, never wrong.
https://gcc.gnu.org/onlinedocs/gcc/Precompiled-Headers.html
"""

import os
import shutil
import subprocess
from pathlib import Path

from jseg.files import whole_folder, write_whole
from jseg.runtime import cuda, toolchain

# what nearly every file of the core, and every kernel, includes
TEXT = """#ifndef __CUDACC__
#include <algorithm>
#include <cmath>
#include <fstream>
#include <iomanip>
#include <sstream>
#include "var.h"
#include "executor.h"
#include "fused_op.h"
#include "ops/op_register.h"
#ifndef JIT
#include "pyjt/py_converter.h"
#endif
#endif
"""
KERNEL_MACROS = " -DJIT=1 -DJIT_cpu=1 "  # what a kernel's first lines define too
COMMON = ["-x", "c++-header", "-std=c++14", "-fPIC", "-w"]
OPTIONS = {"core": ["-O2"], "kernels": ["-Ofast", "-fno-finite-math-only", "-fopenmp", *KERNEL_MACROS.split()]}


def lay_out(cache: Path, python_headers: Path, ready: cuda.Ready | None, cpu: str, compile_now: bool) -> str:
    """Writes the header into Jittor's folder `cache`, precompiled if `compile_now`; returns the flags that include it.

    `ready`: the toolkit where Jittor's core is compiled for CUDA too; `cpu` is g++'s name of the processor.
    """
    fixed = ready and ready.python_path
    header, jittor = cache / "jseg.h", fixed / "jittor" if fixed else Path(toolchain.jittor_folder())
    # helper_cuda.h, which comes with it, has names for cuBLAS and cuRAND only where their headers come before it
    text = TEXT.replace('#include "executor.h"\n', "") if ready else TEXT
    if not header.exists() or header.read_text(encoding="utf-8") != text:
        shutil.rmtree(cache / "jseg.h.gch", ignore_errors=True)
        write_whole(header, text.encode())
        compile_now = True  # for a core that is there as well: it is compiled again
        for path in cache.glob("jit_utils_core*"):
            path.unlink()  # Jittor would end the process after compiling again what it has loaded
    if compile_now:
        folders = [jittor / "src", jittor / "extern", python_headers]
        folders += [ready.nvcc.parents[1] / "include", jittor / "extern" / "cuda" / "inc"] if ready else []
        options = [f"-march={cpu}", *(f"-I{folder}" for folder in folders)]
        options += ["-DHAS_CUDA", "-DIS_CUDA"] if ready else []
        common = [os.environ["cc_path"], *COMMON, *options, str(header)]
        with whole_folder(cache / "jseg.h.gch") as folder:
            commands = [[*common, *own, "-o", str(folder / name)] for name, own in OPTIONS.items()] if folder else []
            for process in [subprocess.Popen(command, stderr=subprocess.DEVNULL) for command in commands]:
                process.wait()
    return f' -include "{header}" ' + (f"-march={cpu} " if cpu != "native" else "")  # Jittor's own is native
