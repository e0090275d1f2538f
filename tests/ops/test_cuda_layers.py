"""Layers, losses and AdamW by their CUDA kernels, run by the emulation, against the C++ kernels."""

from collections.abc import Callable
from pathlib import Path

import jittor as jt
import numpy as np
import pytest

from jseg.config import OptimizerConfig
from jseg.engine import optimizer
from jseg.model import head, losses
from jseg.ops import attention, layers
from jseg.ops.half import HALVES, cast, convert, widen
from jseg.ops.layers import ACTIVATIONS, layer_norm, linear
from tests.cuda_emulation.emulated_attention import ORDERS
from tests.cuda_emulation.emulated_call import pretend_cuda
from tests.ops.reference import random_vars

# of the largest value; halves: roundings of the product, of the result, and of what its gradient is made from
TOLERANCES = {"float32": 2e-6, "bfloat16": 3 * 2.0**-8, "float16": 3 * 2.0**-11}
DTYPES = ["float32", "bfloat16", pytest.param("float16", marks=pytest.mark.slow)]
Form = Callable[..., jt.Var]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuda_emulation")


@pytest.fixture
def emulated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Compares a form by CUDA kernels with that by C++ kernels: output and gradients, in type and value."""

    def compare(form: Form, inputs: list[jt.Var], tolerance: float, offset: int = 0, order: int = 0) -> None:
        results = []
        for cuda in (False, True):
            with monkeypatch.context() as patch:
                if cuda:
                    pretend_cuda(patch, folder, [layers, losses, attention, head], offset, order)
                jt.set_global_seed(3)
                output = form(*inputs)
                (weight,) = random_vars(tuple(output.shape), seed=1)
                trained = [x for x in inputs if not x.is_stop_grad()]
                results.append([output, *jt.grad((widen(output) * weight).sum(), trained)])
                jt.sync(results[-1])
        for computed, expected in zip(*reversed(results), strict=True):
            assert computed.dtype == expected.dtype
            computed, expected = widen(computed).numpy(), widen(expected).numpy()
            np.testing.assert_allclose(computed, expected, atol=tolerance * max(1, np.abs(expected).max()), rtol=0)

    return compare


# bias, residual, rate of dropout, rows and columns (in 33 x 131, random streams change mid-four), whether to be float32
SHAPES = [(True, False, 0.0, 37, 68, False), (True, True, 0.3, 9, 132, False), (False, True, 0.0, 2, 1, False)]
SHAPES += [(False, False, 0.3, 33, 131, False), (True, False, 0.0, 37, 68, True), (False, False, 0.0, 5, 66, True)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("biased, added, rate, rows, columns, wide", SHAPES)
def test_linear(
    dtype: str, activation: str, biased: bool, added: bool, rate: float, rows: int, columns: int, wide: bool,
    emulated: Callable,
) -> None:  # fmt: skip
    x, weight, bias, residual = random_vars((1, rows, 40), (columns, 40), (columns,), (1, rows, columns))
    if activation == "relu":  # so that roundings move no number across 0
        bias = bias + 6 * (bias > 0) - 6 * (bias <= 0)

    def form(x: jt.Var, weight: jt.Var, *rest: jt.Var) -> jt.Var:
        return linear(x, weight, bias if biased else None, activation, residual if added else None, rate, wide)

    inputs = [cast(x, dtype), weight / 6, *([bias] if biased else []), *([residual] if added else [])]
    emulated(form, inputs, TOLERANCES[dtype], offset=columns % 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("used", ["first", "second", "both"])
@pytest.mark.parametrize("kind", ["input", "wide"])
def test_layer_norm_with_two_outputs(kind: str, used: str, dtype: str, emulated: Callable) -> None:
    x, weight, bias, factor = random_vars((3, 7, 131), (131,), (131,), (131,))

    def form(x: jt.Var, weight: jt.Var, bias: jt.Var) -> jt.Var:
        first, second = layer_norm(x, weight, bias, 1e-5, dtype, kind)
        return (widen(first) * factor if used != "second" else 0) + (second if used != "first" else 0)

    emulated(form, [x, weight, bias], TOLERANCES[dtype], offset=1)


@pytest.mark.parametrize("used", [0, 1])
def test_rounded_gradient_of_a_residual(used: int, emulated: Callable) -> None:
    """Layer normalisation hands it to the product before, but not where that is `used` elsewhere, too."""
    frozen = [x.stop_grad() for x in random_vars((24, 16), (24,), (24,), (24,))]

    def form(x: jt.Var, residual: jt.Var) -> jt.Var:
        y = linear(x, *frozen[:2], residual=residual)
        first, second = layer_norm(y, *frozen[2:], 1e-5, "bfloat16", "input")
        return widen(first) + second + used * 3 * y

    x, residual = random_vars((3, 7, 16), (3, 7, 24))
    emulated(form, [cast(x, "bfloat16"), residual], TOLERANCES["bfloat16"])


def test_gradients_of_a_product_and_of_the_residual_after_it(emulated: Callable) -> None:
    def form(x: jt.Var, *weights: jt.Var) -> jt.Var:
        first, second = linear(x, *weights[:2], twice=True)
        return linear(first, weights[2], residual=second)

    inputs = random_vars((3, 7, 16), (24, 16), (24,), (24, 24))
    emulated(form, [cast(inputs[0], "bfloat16"), *inputs[1:]], 2 * TOLERANCES["bfloat16"])


@pytest.mark.parametrize("frozen", [{0}, {1}, {0, 1}, {1, 2}, {0, 1, 2}], ids=str)
def test_linear_with_frozen_inputs(frozen: set[int], emulated: Callable) -> None:
    """Their gradients are not asked for, and those of the others do not need them."""
    inputs = random_vars((5, 8), (12, 8), (12,), (5, 12))
    for index in frozen:
        inputs[index].stop_grad()
    emulated(lambda x, w, b, r: linear(x, w, b, "quick_gelu", r), inputs, TOLERANCES["float32"])
    emulated(lambda x, w, b, r: linear(x, w, b, "none", r), inputs, TOLERANCES["float32"])


TYPES = [("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")]


@pytest.mark.parametrize("read, written", TYPES)
@pytest.mark.parametrize("width", [5, 64, 260])
def test_layer_norm(width: int, read: str, written: str, emulated: Callable) -> None:
    """A channel far above the rest costs the others no digits."""
    x, weight, bias = random_vars((3, 7, width), (width,), (width,))
    x = x + jt.array(np.eye(width)[1] * 64).float32()
    tolerance = max(TOLERANCES[read], TOLERANCES[written])
    form = lambda *inputs: layer_norm(*inputs, 1e-5, written)  # noqa: E731
    emulated(form, [cast(x, read), weight, bias], tolerance, offset=width % 2)
    emulated(lambda *inputs: layer_norm(*inputs, 1e-5, written, first=4), [cast(x, read), weight, bias], tolerance)
    emulated(form, [cast(x, read), weight.stop_grad(), bias.stop_grad()], tolerance)
    emulated(layers.unit_length, [cast(x, read)], TOLERANCES["float32"])


@pytest.mark.parametrize("scale", [3, 100])
@pytest.mark.parametrize("alpha, gamma", [(0.25, 2.0), (0.6, 1.5), (0.25, 0.0)])
def test_losses(scale: float, alpha: float, gamma: float, emulated: Callable) -> None:
    """Resized and as they are; ignored and unknown labels; logits at which sigmoids are 0 and 1."""
    (logits,) = random_vars((2, 3, 31, 67) if gamma else (2, 3, 4, 11))
    labels = jt.array(np.random.default_rng(0).choice([0, 1, 1, 255, -1], (2, 31, 67)).astype(np.int32))
    for i in range(2):
        form = lambda x, i=i: losses.mask_sums(x, labels, alpha, gamma)[i]  # noqa: E731
        emulated(form, [logits * scale], TOLERANCES["float32"])


@pytest.mark.parametrize("shape, size", [((1, 2, 9, 700), (5, 600)), ((1, 520, 2, 2), (3, 5))])
def test_losses_of_more_than_a_block_has_threads(shape: tuple, size: tuple, emulated: Callable) -> None:
    """Columns of pixels and of the grid, which is shrunk; planes."""
    labels = jt.array(np.random.default_rng(0).integers(-1, 3, (1, *size)).astype(np.int32))
    form = lambda x: jt.concat(losses.mask_sums(x, labels, 0.25, 2.0))  # noqa: E731
    emulated(form, random_vars(shape), TOLERANCES["float32"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rate, depth", [(0.0, 12), (0.3, 16)])
def test_two_way_attention(rate: float, depth: int, dtype: str, emulated: Callable) -> None:
    """One operator for each side on CPU: these drop the same weights."""
    sides = [cast(x, dtype) for x in random_vars((2, 5, 6 * depth), (2, 70, 6 * depth))]
    form = lambda *sides: jt.concat([widen(x) for x in attention.two_way_attention(*sides, 2, rate)], 1)  # noqa: E731
    emulated(form, sides, TOLERANCES[dtype])


def test_decoder(emulated: Callable) -> None:
    """On CUDA, one product for each side and layer, of weights that are put side by side."""
    layers = [jt.nn.ModuleList([head.DecoderLayer(24, 2, 2, 0.0) for _ in range(2)]) for _ in range(2)]
    inputs = [*random_vars((2, 5, 24), (2, 9, 24)), *layers[0].parameters(), *layers[1].parameters()]
    pairs = list(zip(*layers, strict=True))

    def form(q: jt.Var, v: jt.Var, *_: jt.Var) -> jt.Var:
        decoded = head.decode(pairs, (q, q), (v, v), iter(head.join_projections(pairs)))
        return jt.concat([x for _, x in decoded], 1)

    emulated(form, inputs, TOLERANCES["float32"])


@pytest.mark.parametrize("order", ORDERS)
def test_order_of_threads_changes_nothing(order: int, emulated: Callable) -> None:
    x, weight, bias, logits = random_vars((300, 24), (24,), (24,), (1, 2, 7, 40))
    labels = jt.zeros((1, 40, 40), "int32")
    emulated(lambda *inputs: layer_norm(*inputs, 1e-5), [x, weight, bias], TOLERANCES["float32"], 0, order)
    form = lambda x: jt.concat(losses.mask_sums(x, labels, 0.25, 2.0))  # noqa: E731
    emulated(form, [logits], TOLERANCES["float32"], 0, order)
    pairs = [y.stop_grad() if i % 2 else y for i, y in enumerate(random_vars((3, 700), (3, 700), (5,), (5,)))]
    form = lambda *pairs: jt.concat(losses.recovery_loss(losses.TrainingOutputs(logits, *pairs)))  # noqa: E731
    emulated(form, pairs, TOLERANCES["float32"], 0, order)


def test_optimizer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes around those of blocks, more tensors than one launch takes; two steps, the second one clipped, and one that
    is left out with gradients that are not finite."""
    config, results = OptimizerConfig(lr=1e-2, weight_decay=0.3, groups="stated"), []
    sizes = [(size,) for size in (1, 255, 257, 1500, *[3] * 260)]
    names = [f"norm {i}" if i % 2 else str(i) for i in range(len(sizes))]
    for cuda in (False, True):
        with monkeypatch.context() as patch:
            if cuda:
                pretend_cuda(patch, folder, [optimizer], 0, 3)
            parameters = list(zip(names, random_vars(*sizes), strict=True))
            halves = {name: convert(x, kind) for (name, x), kind in zip(parameters[2:4], HALVES, strict=True)}
            adamw = optimizer.AdamW(parameters, config, halves)
            for seed, factor in ((1, None), (2, jt.array([0.25]))):
                gradients = random_vars(*sizes, seed=seed)
                gradients[2:4] = (convert(x, kind) for x, kind in zip(gradients[2:4], HALVES, strict=True))
                adamw.step(gradients, factor)
            state = adamw.state()
            adamw.step([widen(x) * np.nan for x in gradients], jt.zeros(1))
            assert adamw.steps == 2 and all((state[name] == x).all() for name, x in adamw.state().items())
            for (name, x), kind in zip(parameters[2:4], HALVES, strict=True):
                assert np.array_equal(widen(halves[name]).numpy(), widen(convert(x, kind)).numpy())
            sums, squares = (jt.array64(np.array([1, x])) for x in (1.0, np.inf, np.nan)), jt.array([3.0, 1.0])
            assert [optimizer.step_factor(squares, x, 1.0).item() for x in sums] == [0.5, 0, 0]
            groups = adamw.parameters, adamw._m.values(), adamw._v.values(), [optimizer.square_sums(gradients)]
            results.append([np.concatenate([x.numpy() for x in group]) for group in groups])
    for computed, expected in zip(*results, strict=True):  # to some roundings of the largest
        np.testing.assert_allclose(computed, expected, rtol=2e-6, atol=2e-7 * expected.max())
