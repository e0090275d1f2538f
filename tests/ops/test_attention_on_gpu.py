"""The CUDA attention kernels on a GPU, through Jittor, against PyTorch in float64 on the CPU."""

from collections.abc import Callable

import jittor as jt
import numpy as np
import pytest
import torch

from jseg.ops import attention, compiled
from jseg.runtime.start import start
from tests.ops import reference

pytestmark = pytest.mark.gpu

# norm of the error over the norm of the result: the emulation has 4e-7, 2.5e-3, 3.4e-4
TOLERANCES = {"float32": 1e-5, "bfloat16": 6e-3, "float16": 1.5e-3}
# leading tokens, patch grid, region grid, prompts
REGIONS = [(1, (8, 8), (4, 4), 10), (3, (5, 7), (2, 2), 1), (1, (9, 7), (1, 1), 0), (1, (32, 32), (4, 4), 100)]
# depth of a head; 30 and 72 are padded, and rows of 30 numbers do not start at multiples of 16 bytes
KERNELS = [(dtype, depth) for dtype in TOLERANCES for depth in (64, 32, 30, 72)]
every_kernel = pytest.mark.parametrize(("dtype", "depth"), KERNELS)


@pytest.fixture(autouse=True)
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JSEG_KERNELS", raising=False)
    start("cuda")
    if not compiled.compiled(cuda=True):
        pytest.skip(f"a GPU of compute capability {jt.flags.cuda_archs}")
    waste = [jt.full((2**size,), float("nan")) for size in range(8, 25)]  # in the memory that is handed out next
    jt.sync(waste, device_sync=True)
    del waste
    jt.sync_all(True)


def random_arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    generator = np.random.default_rng()  # fresh every time
    return [generator.standard_normal(shape).astype(np.float32) for shape in shapes]


def check(ours: Callable[..., jt.Var], theirs: Callable[..., torch.Tensor], shapes: list, dtype: str) -> None:
    """Output and gradients of all inputs: the reference's numbers, and the same bits in a second run."""
    inputs = [jt.array(x).cast(dtype) for x in random_arrays(*shapes)]
    wide = [torch.tensor(x.float32().numpy(), dtype=torch.float64, requires_grad=True) for x in inputs]
    expected = theirs(*wide)
    (weight,) = random_arrays(tuple(expected.shape))
    expected.backward(torch.from_numpy(weight).double())
    runs = []
    for _ in range(2):
        output = ours(*inputs)
        assert str(output.dtype) == dtype
        gradients = jt.grad((output.float32() * jt.array(weight)).sum(), inputs)
        runs.append([x.float32().numpy() for x in (output, *gradients)])
    for first, second, exact in zip(*runs, [expected.detach(), *(x.grad for x in wide)], strict=True):
        np.testing.assert_array_equal(first, second)
        assert np.isfinite(first).all()
        assert np.linalg.norm(first - exact.numpy()) <= TOLERANCES[dtype] * max(exact.norm().item(), 1.0)


@every_kernel
@pytest.mark.parametrize("case", REGIONS)
def test_region_attention(case: tuple, depth: int, dtype: str) -> None:
    *structure, prompts = case
    length, width = structure[0] + sum(int(np.prod(grid)) for grid in structure[1:]), 3 * depth
    shapes, modules = [(2, length, 3 * width), (2, prompts, 3 * width)], (attention, reference)
    if prompts:
        check(*(lambda x, y, m=m: m.region_attention(x, y, 3, *structure) for m in modules), shapes, dtype)
    else:
        check(*(lambda x, m=m: m.self_attention(x, 3) for m in modules), shapes[:1], dtype)


@every_kernel
@pytest.mark.parametrize("length", [1, 77, 300])
def test_causal_attention(length: int, depth: int, dtype: str) -> None:
    forms = [lambda x, m=m: m.self_attention(x, 2, causal=True) for m in (attention, reference)]
    check(*forms, [(3, length, 3 * 2 * depth)], dtype)


@every_kernel
@pytest.mark.parametrize("lengths", [(20, 1024), (1024, 171), (1, 1)])
def test_cross_attention(lengths: tuple[int, int], depth: int, dtype: str) -> None:
    forms = [lambda q, k, v, f=f: f(q, k, v, 4) for f in (attention.cross_attention, reference.attention)]
    check(*forms, [(2, lengths[0], 4 * depth), *[(2, lengths[1], 4 * depth)] * 2], dtype)
