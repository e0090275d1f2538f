"""Small computations with known results, run on the chosen device: a table of ok, failed and skipped."""

from __future__ import annotations

import time
import traceback
from functools import partial
from pathlib import Path

import numpy as np

from jseg.errors import UserError
from jseg.runtime.prepare import ONEDNN_INSTALL
from jseg.runtime.start import start

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"  # there in a checkout, not in an installed copy


def check(device: str, golden: Path | None = None) -> int:
    """Runs all checks on a device (as for `start`), prints the table; returns 0, or 1 when one failed."""
    begin = time.perf_counter()
    device = start(device)
    print(f"{'Jittor':12} {'ok':8} {time.perf_counter() - begin:6.1f} s  runs on {device}", flush=True)
    products = "another cuBLAS may be loaded: unset LD_LIBRARY_PATH" if device == "cuda" else ONEDNN_INSTALL
    checks = [
        ("kernel", check_kernel, "empty the cache folder after an update of the compiler"),
        ("product", check_product, products),
        ("attention", check_attention, "JSEG_KERNELS=plain runs plain Jittor operators instead, slower"),
    ]
    if golden or GOLDEN.is_dir():
        compare = partial(check_golden, folder=golden or GOLDEN)
        checks.append(("golden file", compare, "tools/check_parity.py --golden DIR tells more"))
    else:
        print(f"{'golden file':12} skipped     0.0 s  pass --golden DIR, the folder tests/golden of the repository")
    failed = 0
    for name, run, remedy in checks:
        begin = time.perf_counter()
        try:
            state, detail = "ok", run(device)
        except Exception as error:  # one broken part must not hide the others
            if not isinstance(error, (AssertionError, UserError)):
                traceback.print_exc()
            failed, state, detail = 1, "failed", f"{str(error).strip() or type(error).__name__}; {remedy}"
        print(f"{name:12} {state:8} {time.perf_counter() - begin:6.1f} s  {detail.splitlines()[-1]}", flush=True)
    return failed


def _error(computed: np.ndarray, exact: np.ndarray, most: float = 1e-2) -> float:
    """Largest difference; asserts that it is less than `most`."""
    error = float(np.abs(computed - exact).max())
    assert error < most, f"wrong results, off by {error:.1e}"  # nan fails, too
    return error


def check_kernel(device: str) -> str:
    """Compiles and runs one elementwise kernel with a reduction."""
    import jittor as jt

    x = np.random.default_rng(0).standard_normal((37, 1000), dtype=np.float32)
    error = _error((jt.array(x) * 2 + 1).maximum(0).sum(1).numpy(), np.maximum(x.astype(np.float64) * 2 + 1, 0).sum(1))
    probe = jt.array(np.array([np.nan, 1.0], dtype=np.float32))
    nan_differs = (probe != probe).numpy().tolist() == [True, False]
    assert nan_differs or device == "cuda", "NaN equals NaN"  # CUDA kernels are always built with fast math
    return f"off by {error:.1e}, nan != nan is {nan_differs}"


def check_product(device: str) -> str:
    """Products of a batch; on CUDA they show that cuBLAS works, on CPU oneDNN."""
    import jittor as jt

    x = np.random.default_rng(0).standard_normal((3, 256, 512), dtype=np.float32)
    exact = x.astype(np.float64) @ x.astype(np.float64).transpose(0, 2, 1)
    return f"off by {_error(jt.matmul(jt.array(x), jt.array(x).transpose(0, 2, 1)).numpy(), exact):.1e}"


def check_attention(device: str) -> str:
    """`cross_attention` and its gradient against softmax(q k^T / sqrt(d)) v in float64."""
    import jittor as jt

    from jseg.ops.attention import cross_attention
    from jseg.ops.compiled import compiled

    shape, generator = (2, 70, 4 * 64), np.random.default_rng(0)
    values, step = generator.standard_normal((2, 3, *shape), dtype=np.float32)  # q, k, v
    weight = generator.standard_normal(shape, dtype=np.float32)

    def exact(values: np.ndarray) -> np.ndarray:
        q, k, v = values.astype(np.float64).reshape(3, 2, 70, 4, 64).transpose(0, 1, 3, 2, 4)
        weights = np.exp(q @ k.transpose(0, 1, 3, 2) / 8)
        return (weights / weights.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(shape)

    inputs = [jt.array(x) for x in values]
    output = cross_attention(*inputs, 4)
    error = _error(output.numpy(), exact(values))
    gradients = np.stack([x.numpy() for x in jt.grad((output * jt.array(weight)).sum(), inputs)]).astype(np.float64)
    slope = ((exact(values + 1e-4 * step) - exact(values - 1e-4 * step)) * weight).sum() / 2e-4  # along `step`
    _error((gradients * step).sum(), slope, most=1.0)
    if device == "cuda":
        half = cross_attention(*(x.bfloat16() for x in inputs), 4).float32()
        _error(half.numpy(), exact(values), most=0.05)
    return f"off by {error:.1e}, {'compiled kernels' if compiled(cuda=True) else 'plain operators'}"


def check_golden(device: str, folder: Path) -> str:
    """Compares a forward pass with the recorded one of the released model."""
    from jseg.parity.report import check_set  # imports Jittor, which `start` must configure first

    report = next(check_set(folder, device, only="forward_eval_"))
    assert report.passed, report.line()
    return f"{report.name}: worst error {max(report.excess.values()):.2g} of its tolerance"
