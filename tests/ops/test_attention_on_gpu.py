"""The CUDA attention kernels on a GPU, through Jittor, against plain operators in float32 on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jittor as jt
import numpy as np
import pytest

from jseg.ops import attention, compiled
from jseg.runtime.start import start

pytestmark = pytest.mark.gpu

# norm of the error over the norm of the result: the emulation has 4e-7, 2.5e-3, 3.4e-4
TOLERANCES = {"float32": 1e-5, "bfloat16": 6e-3, "float16": 1.5e-3}
# leading tokens, patch grid, region grid, prompts
REGIONS = [(1, (8, 8), (4, 4), 10), (3, (5, 7), (2, 2), 1), (1, (9, 7), (1, 1), 0), (1, (32, 32), (4, 4), 100)]
# depth of a head; 30 and 72 are padded, and rows of 30 numbers do not start at multiples of 16 bytes
DEPTHS = [64, 32, 30, 72]


@pytest.fixture(autouse=True)
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("JSEG_KERNELS", raising=False)
    start("cuda")
    if not compiled.compiled(cuda=True):
        pytest.skip(f"a GPU of compute capability {jt.flags.cuda_archs}")
    poison()
    try:
        yield
    finally:
        start("cpu")


def poison() -> None:
    """Leaves NaN in the memory that Jittor hands out next."""
    waste = [jt.full((2**size,), float("nan")) for size in range(8, 25)]
    jt.sync(waste, device_sync=True)
    del waste
    jt.sync_all(True)


def random_arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    generator = np.random.default_rng()  # fresh every time
    return [generator.standard_normal(shape).astype(np.float32) for shape in shapes]


def results(form: Callable[..., jt.Var], arrays: list[np.ndarray], weight: np.ndarray, dtype: str) -> list[np.ndarray]:
    """Output and gradients of all inputs."""
    inputs = [jt.array(x).cast(dtype) for x in arrays]
    output = form(*inputs)
    assert str(output.dtype) == dtype
    gradients = jt.grad((output.float32() * jt.array(weight)).sum(), inputs)
    return [x.float32().numpy() for x in (output, *gradients)]


def check(form: Callable[..., jt.Var], arrays: list[np.ndarray], out_shape: tuple[int, ...], dtype: str) -> None:
    """The same numbers as plain operators on the CPU, and the same bits in a second run."""
    arrays = [jt.array(x).cast(dtype).float32().numpy() for x in arrays]  # rounded, so that both see the same
    (weight,) = random_arrays(out_shape)
    computed = results(form, arrays, weight, dtype)
    again = results(form, arrays, weight, dtype)
    with jt.flag_scope(use_cuda=0), pytest.MonkeyPatch.context() as patch:
        patch.setenv("JSEG_KERNELS", "plain")
        expected = results(form, arrays, weight, "float32")
    for ours, second, theirs in zip(computed, again, expected, strict=True):
        np.testing.assert_array_equal(ours, second)
        assert np.isfinite(ours).all()
        assert np.linalg.norm(ours - theirs) <= TOLERANCES[dtype] * max(np.linalg.norm(theirs), 1.0)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("case", REGIONS)
def test_region_attention(case: tuple, depth: int, dtype: str) -> None:
    leading, patches, regions, prompts = case
    heads, length = 3, leading + int(np.prod(patches)) + int(np.prod(regions))
    width = heads * depth
    arrays = random_arrays((2, length, 3 * width), (2, max(prompts, 1), 3 * width))
    if prompts:
        check(lambda x, y: attention.region_attention(x, y, heads, *case[:3]), arrays, (2, length, width), dtype)
    else:
        check(lambda x: attention.self_attention(x, heads), arrays[:1], (2, length, width), dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("length", [1, 77, 300])
def test_causal_attention(length: int, depth: int, dtype: str) -> None:
    arrays = random_arrays((3, length, 3 * 2 * depth))
    check(lambda x: attention.self_attention(x, 2, causal=True), arrays, (3, length, 2 * depth), dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("lengths", [(20, 1024), (1024, 171), (1, 1)])
def test_cross_attention(lengths: tuple[int, int], depth: int, dtype: str) -> None:
    width = 4 * depth
    arrays = random_arrays((2, lengths[0], width), *[(2, lengths[1], width)] * 2)
    check(lambda q, k, v: attention.cross_attention(q, k, v, 4), arrays, (2, lengths[0], width), dtype)


def test_memory_that_is_not_aligned() -> None:
    """A Var may begin anywhere in a larger one."""
    depth, length = 64, 100
    (array,) = random_arrays((3, length, 3 * depth))
    flat = jt.array(np.concatenate([np.zeros(3, np.float32), array.ravel()]))
    shifted = flat[3:].reshape(3, length, 3 * depth)
    output = attention.self_attention(shifted, 1).numpy()
    np.testing.assert_array_equal(output, attention.self_attention(jt.array(array), 1).numpy())


def test_dropped_weights_are_the_same_in_the_gradient() -> None:
    """Values that are unit vectors show which weights were dropped."""
    q, k, weight = (jt.array(x) for x in random_arrays((1, 30, 64), (1, 64, 64), (1, 30, 64)))
    v = jt.init.eye(64).unsqueeze(0)
    jt.set_global_seed(5)
    output = attention.cross_attention(q, k, v, 1, 0.3)
    gradient = jt.grad((output * weight).sum(), v).numpy()
    factors = output.numpy() / attention.cross_attention(q, k, v, 1).numpy()
    assert 0.25 < (factors < 0.5).mean() < 0.35
    # out = W v, hence the gradient of v is W^T weight with the dropped W that v = 1 shows
    np.testing.assert_allclose(gradient[0], output.numpy()[0].T @ weight.numpy()[0], atol=1e-5)
