"""Small computations with known results, run on the chosen device: a table of ok, failed and skipped."""

import time
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np

from jseg.runtime.prepare import ONEDNN_INSTALL
from jseg.runtime.start import start

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"  # there in a checkout, not in an installed copy


def check(device: str, golden: Path | None = None) -> int:
    """Runs all checks on a device (as for `start`), prints the table; returns 0, or 1 when one failed."""
    begin, failed = time.perf_counter(), 0
    device = start(device)
    print(f"{'Jittor':12} {'ok':8} {time.perf_counter() - begin:6.1f} s  runs on {device}", flush=True)
    import jittor as jt

    products = "another cuBLAS may be loaded: unset LD_LIBRARY_PATH" if device == "cuda" else ONEDNN_INSTALL
    checks = [
        ("kernel", check_kernel, "empty the cache folder after an update of the compiler"),
        ("product", check_product, products),
        ("attention", check_attention, "JSEG_KERNELS=plain runs plain Jittor operators instead, slower"),
    ]
    if golden or GOLDEN.is_dir():
        checks.append(("golden file", partial(check_golden, golden or GOLDEN), "tools/check_parity.py tells more"))
    else:
        print(f"{'golden file':12} skipped     0.0 s  pass --golden DIR, the folder tests/golden of the repository")
    for name, run, remedy in checks:
        begin = time.perf_counter()
        try:
            state, detail = "ok", run(jt, device)
        except Exception as error:  # one broken part must not hide the others
            failed, state, detail = 1, "failed", f"{type(error).__name__}: {error}; {remedy}"
        print(f"{name:12} {state:8} {time.perf_counter() - begin:6.1f} s  {detail.splitlines()[-1]}", flush=True)
    return failed


def _error(computed: np.ndarray, exact: np.ndarray, most: float = 1e-2) -> str:
    """Largest difference; asserts that it is less than `most`."""
    error = float(np.abs(computed - exact).max())
    assert error < most, f"wrong results, off by {error:.1e}"  # nan fails, too
    return f"off by {error:.1e}"


def check_kernel(jt: ModuleType, device: str) -> str:
    """Compiles and runs one elementwise kernel with a reduction."""
    x = np.random.default_rng(0).standard_normal((37, 1000), dtype=np.float32)
    error = _error((jt.array(x) * 2 + 1).maximum(0).sum(1).numpy(), np.maximum(x.astype(np.float64) * 2 + 1, 0).sum(1))
    probe = jt.array(np.float32([np.nan, 1]))  # CUDA kernels are always built with fast math
    assert device == "cuda" or (probe != probe).numpy().tolist() == [True, False], "NaN equals NaN"
    return error


def check_product(jt: ModuleType, device: str) -> str:
    """Products of a batch; on CUDA they show that cuBLAS works, on CPU oneDNN."""
    x = np.random.default_rng(0).standard_normal((3, 256, 512), dtype=np.float32)
    exact = x.astype(np.float64) @ x.astype(np.float64).transpose(0, 2, 1)
    return _error(jt.matmul(jt.array(x), jt.array(x).transpose(0, 2, 1)).numpy(), exact)


def check_attention(jt: ModuleType, device: str) -> str:
    """`cross_attention` and its gradient against softmax(q k^T / sqrt(d)) v in float64."""
    from jseg.ops.attention import cross_attention
    from jseg.ops.compiled import compiled

    values, step, weight = np.random.default_rng(0).standard_normal((3, 3, 2, 70, 4 * 64), dtype=np.float32)

    def exact(values: np.ndarray) -> np.ndarray:
        q, k, v = values.astype(np.float64).reshape(3, 2, 70, 4, 64).transpose(0, 1, 3, 2, 4)
        weights = np.exp(q @ k.transpose(0, 1, 3, 2) / 8)
        return (weights / weights.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(2, 70, 4 * 64)

    inputs = [jt.array(x) for x in values]  # q, k, v
    output = cross_attention(*inputs, 4)
    error = _error(output.numpy(), exact(values))
    gradients = np.stack([x.numpy() for x in jt.grad((output * jt.array(weight[0])).sum(), inputs)]).astype(np.float64)
    slope = ((exact(values + 1e-4 * step) - exact(values - 1e-4 * step)) * weight[0]).sum() / 2e-4  # along `step`
    _error((gradients * step).sum(), slope, most=1.0)
    return f"{error}, {'compiled kernels' if compiled(cuda=True) else 'plain operators'}"


def check_golden(folder: Path, jt: ModuleType, device: str) -> str:
    """Compares a forward pass with the recorded one of the released model."""
    from jseg.parity.report import check_set  # imports Jittor, which `start` must configure first

    report = next(check_set(folder, device, only="forward_eval_"))
    assert report.passed, report.line()
    return f"{report.name}: worst error {max(report.excess.values()):.2g} of its tolerance"
