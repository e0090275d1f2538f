"""Small computations whose results are known, run on the chosen device: a table of ok, failed and skipped."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jseg.errors import UserError
from jseg.runtime.prepare import ONEDNN_INSTALL, prepare
from jseg.runtime.start import start

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"  # there in a checkout, not in an installed copy
GOLDEN_PATTERN = "forward_eval_*.npz"


class Skip(Exception):
    """Why a check was not run, and what it takes to run it."""


@dataclass
class Row:
    """One line of the table."""

    name: str
    state: str  # ok, failed or skipped
    detail: str  # what was found; where it failed, the remedy
    seconds: float

    def line(self) -> str:
        """One line, such as `product      ok       0.1 s  off by 2.1e-05`."""
        return f"{self.name:12} {self.state:8} {self.seconds:6.1f} s  {self.detail}"


def check(device: str, golden: Path | None = None) -> int:
    """Runs all checks, prints the table; returns 0, or 1 when one failed.

    Args:
        device: as for `start`.
        golden: folder of a golden set; by default that of the checkout.

    Raises:
        UserError: Jittor cannot run on the device, or `golden` is no golden set.
    """
    begin = time.perf_counter()
    device = start(device)
    rows = [Row("Jittor", "ok", f"runs on {device}", time.perf_counter() - begin)]
    checks: dict[str, tuple[Callable[[], str], str]] = {
        "kernel": (lambda: check_kernel(device), _compiler_remedy(device)),
        "product": (check_product, _product_remedy(device)),
        "attention": (check_attention, "JSEG_KERNELS=plain runs plain Jittor operators instead, slower"),
        "golden file": (lambda: check_golden(device, golden), "tools/check_parity.py --golden DIR tells more"),
    }
    print(rows[0].line(), flush=True)
    for name, (run, remedy) in checks.items():
        rows.append(_run(name, run, remedy))
        print(rows[-1].line(), flush=True)
    return int(any(row.state == "failed" for row in rows))


def _run(name: str, run: Callable[[], str], remedy: str) -> Row:
    begin = time.perf_counter()
    try:
        state, detail = "ok", run()
    except Skip as reason:
        state, detail = "skipped", str(reason)
    except UserError:
        raise
    except Exception as error:  # one broken part must not hide the others
        if not isinstance(error, AssertionError):
            traceback.print_exc()
        lines = str(error).strip().splitlines() or [type(error).__name__]
        state, detail = "failed", f"{lines[-1]}; {remedy}"
    return Row(name, state, detail, time.perf_counter() - begin)


def _compiler_remedy(device: str) -> str:
    toolkit = prepare().toolkit
    if device == "cuda" and toolkit:
        return f"look whether {toolkit.nvcc} compiles and the driver is its match, or set JSEG_CUDA_HOME to another"
    return "look whether g++ compiles for this machine; empty the cache folder after an update of g++"


def _product_remedy(device: str) -> str:
    return "another cuBLAS may be loaded: unset LD_LIBRARY_PATH" if device == "cuda" else ONEDNN_INSTALL


def check_kernel(device: str) -> str:
    """Compiles and runs one elementwise kernel with a reduction."""
    import jittor as jt

    x = np.random.default_rng(0).standard_normal((37, 1000), dtype=np.float32)
    error = _error((jt.array(x) * 2 + 1).maximum(0).sum(1).numpy(), np.maximum(x.astype(np.float64) * 2 + 1, 0).sum(1))
    assert error < 1e-2, f"wrong results, off by {error:.1e}"
    probe = jt.array(np.array([np.nan, 1.0], dtype=np.float32))
    nan_holds = (probe != probe).numpy().tolist() == [True, False]
    assert nan_holds or device == "cuda", "NaN equals NaN"  # CUDA kernels are always built with fast math
    return f"off by {error:.1e}, nan != nan is {nan_holds}"


def check_product() -> str:
    """One product and one of batches; on CUDA they show that cuBLAS works, on CPU oneDNN."""
    import jittor as jt

    x = np.random.default_rng(0).standard_normal((3, 256, 512), dtype=np.float32)
    exact = x.astype(np.float64) @ x.astype(np.float64).transpose(0, 2, 1)
    a = jt.array(x)
    error = max(
        _error((a[0] @ a[0].transpose()).numpy(), exact[0]), _error(jt.matmul(a, a.transpose(0, 2, 1)).numpy(), exact)
    )
    assert error < 1e-2, f"wrong results, off by {error:.1e}"
    return f"off by {error:.1e}"


def check_attention() -> str:
    """`cross_attention` and its gradient against softmax(q k^T / sqrt(d)) v in float64."""
    import jittor as jt

    from jseg.ops.attention import cross_attention
    from jseg.ops.compiled import compiled

    heads, shape = 4, (2, 70, 4 * 64)
    generator = np.random.default_rng(0)
    values = [generator.standard_normal(shape, dtype=np.float32) for _ in range(3)]
    weight, step = generator.standard_normal((2, *shape), dtype=np.float32)

    def exact(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        q, k, v = (x.astype(np.float64).reshape(2, 70, heads, 64).transpose(0, 2, 1, 3) for x in (q, k, v))
        weights = np.exp(q @ k.transpose(0, 1, 3, 2) / 8)
        return (weights / weights.sum(-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(shape)

    inputs = [jt.array(x) for x in values]
    output = cross_attention(*inputs, heads)
    gradients = [x.numpy() for x in jt.grad((output * jt.array(weight)).sum(), inputs)]
    error = _error(output.numpy(), exact(*values))
    for i, gradient in enumerate(gradients):  # the derivative along `step` by differences
        ahead, behind = ([x + sign * 1e-4 * step * (j == i) for j, x in enumerate(values)] for sign in (1.0, -1.0))
        slope = ((exact(*ahead) - exact(*behind)) * weight).sum() / 2e-4
        error = max(error, abs(slope - float((gradient.astype(np.float64) * step).sum())) / 100)
    assert error < 1e-2, f"wrong results, off by {error:.1e}"
    if jt.flags.use_cuda:
        half = cross_attention(*(x.bfloat16() for x in inputs), heads).float32().numpy()
        half_error = _error(half, exact(*values))
        assert half_error < 0.05, f"wrong results in bfloat16, off by {half_error:.1e}"
    return f"off by {error:.1e}, {'compiled kernels' if compiled(cuda=True) else 'plain operators'}"


def check_golden(device: str, golden: Path | None) -> str:
    """Compares a forward pass with the recorded one of the released model."""
    folder = golden or GOLDEN
    if golden is None and not folder.is_dir():
        raise Skip("pass --golden DIR, the folder tests/golden of the repository")
    from jseg.parity.check_set import check_file, golden_folders
    from jseg.parity.tolerances import CUDA_FACTOR

    for release in golden_folders(folder):
        for path in release.files():
            if path.match(GOLDEN_PATTERN):
                report = check_file(release, path, CUDA_FACTOR if device == "cuda" else 1.0)
                assert report is not None and report.passed, report.line() if report else "nothing compared"
                return f"{report.name}: worst error {report.worst[1]:.2g} of its tolerance"
    raise Skip(f"{folder} holds no {GOLDEN_PATTERN}")


def _error(computed: np.ndarray, exact: np.ndarray) -> float:
    """Largest difference; infinite when something is not finite."""
    error = float(np.abs(computed - exact).max())
    return error if np.isfinite(error) else float("inf")
