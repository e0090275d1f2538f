"""The CUDA attention kernels, run by the emulation in tests/cuda_emulation, against PyTorch in float64.

Indices, register layouts, masks, barriers and waits are proved here; what only hardware shows is not.
"""

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cuda_emulation.emulated_attention import CAUSAL, FULL, ORDERS, REGIONS, Emulation, compile_library
from tests.ops import reference

# norm of the error over the norm of the result; measured: 4e-7, 6e-4, 2.5e-3, 3.4e-4
TOLERANCES = {"Float32": 2e-6, "TensorFloat32": 2e-3, "BFloat16": 5e-3, "Float16": 1e-3}
# norm of the error where the result is (next to) 0, over those: the gradient of a lone score is a difference of
# products; measured: 3e-6 in float32
OF_NOTHING = 3
# number type, depth of a head, numbers by which tensors miss an alignment of 16 bytes
KERNEL_TYPES = [("BFloat16", 64, 0), ("Float16", 32, 0), ("Float16", 30, 1), ("Float32", 32, 0), ("Float32", 24, 1)]
MORE_TYPES = [
    ("BFloat16", 64, 4), ("BFloat16", 32, 0), ("BFloat16", 80, 0), ("BFloat16", 72, 0), ("Float16", 64, 0),
    ("Float16", 8, 0), ("Float32", 64, 0), ("Float32", 8, 0), ("Float32", 75, 2), ("TensorFloat32", 64, 0),
]  # fmt: skip
ALL_TYPES = [*KERNEL_TYPES, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE_TYPES)]
# leading tokens, patches, regions, prompts, images that have prompts of their own
REGION_CASES = [(1, (8, 8), (4, 4), 10, 2), (3, (5, 7), (2, 2), 0, 2), (1, (9, 7), (1, 1), 1, 1)]
REGION_CASES += [(5, (9, 11), (3, 3), 100, 2), (1, (8, 8), (0, 0), 10, 2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cuda_emulation")


def random_tensors(emulation: Emulation, seed: int, *shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(emulation.type) for shape in shapes]


def in_float64(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [x.double().requires_grad_() for x in tensors]


def compare(computed: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float) -> None:
    for ours, theirs in zip(computed, expected, strict=True):
        assert torch.isfinite(ours).all()
        error, size = (ours.double() - theirs).norm(), theirs.norm()
        allowed = tolerance * (float(size) if size > 1 else OF_NOTHING)
        assert error <= allowed, f"{float(error)} of {float(size)}"


def check_regions(emulation: Emulation, tolerance: float, case: tuple, heads: int = 2, seed: int = 0) -> None:
    leading, patches, regions, prompt_count, of_images = case
    batch, width = 2, heads * emulation.depth
    length = leading + int(np.prod(patches)) + int(np.prod(regions))
    shapes = (batch, length, 3 * width), (of_images, prompt_count, 3 * width), (batch, length, width)
    projected, prompts, grad = random_tensors(emulation, seed, *shapes)
    structure = (leading, *patches, *regions)
    given = prompts if prompt_count else None
    computed = emulation.joint(projected, given, heads, REGIONS, structure, grad)
    of_tokens, of_prompts = in_float64(projected, prompts)
    out = reference.region_attention(of_tokens, of_prompts, heads, leading, patches, regions)
    out.backward(grad.double())
    expected = [out.detach(), of_tokens.grad]
    if prompt_count and of_images == batch:
        expected.append(of_prompts.grad)
    compare(computed[: len(expected)], expected, tolerance)  # prompts that images share are frozen: no gradient
    if len(expected) == 3:
        beside_frozen = emulation.joint(projected, given, heads, REGIONS, structure, grad, frozen=True)
        assert torch.equal(beside_frozen[2], computed[2])


@pytest.mark.parametrize("case", REGION_CASES)
@pytest.mark.parametrize("number_type,depth,offset", ALL_TYPES)
def test_region_attention(number_type: str, depth: int, offset: int, case: tuple, folder: Path) -> None:
    check_regions(Emulation(number_type, depth, folder, offset), TOLERANCES[number_type], case)


@pytest.mark.parametrize("length", [1, 64, 131])
@pytest.mark.parametrize("mask", [FULL, CAUSAL])
@pytest.mark.parametrize("number_type,depth,offset", ALL_TYPES)
def test_self_attention(number_type: str, depth: int, offset: int, mask: int, length: int, folder: Path) -> None:
    emulation, heads = Emulation(number_type, depth, folder, offset), 1
    shapes = (2, length, 3 * heads * depth), (2, length, heads * depth)
    projected, grad = random_tensors(emulation, 1, *shapes)
    computed = emulation.joint(projected, None, heads, mask, (0,) * 5, grad)
    (tokens,) = in_float64(projected)
    out = reference.self_attention(tokens, heads, mask == CAUSAL)
    out.backward(grad.double())
    compare(computed, [out.detach(), tokens.grad], TOLERANCES[number_type])


def check_cross(emulation: Emulation, tolerance: float, lengths: tuple[int, int], dropout: float, folder: Path) -> None:
    heads, batch, seed = 3, 2, 0x123456789ABCDEF
    width = heads * emulation.depth
    *qkv, grad = random_tensors(emulation, 2, *((batch, lengths[i], width) for i in (0, 1, 1, 0)))
    computed = emulation.cross(qkv, heads, grad, dropout, seed)
    keep = None
    if dropout:
        factors = np.full((batch, heads, *lengths), np.nan, np.float32)
        dropped = compile_library("dropped.cpp", folder, ("-march=native",))
        place = factors.ctypes.data_as(ctypes.c_void_p)
        dropped.keep_factors(
            ctypes.c_uint64(seed), ctypes.c_long(batch * heads * lengths[0]), ctypes.c_long(lengths[1]),
            ctypes.c_float(dropout), place,
        )  # fmt: skip
        assert abs((factors == 0).mean() - dropout) < 0.05
        keep = torch.from_numpy(factors).double()
    inputs = in_float64(*qkv)
    out = reference.attention(*inputs, heads, None, keep)
    out.backward(grad.double())
    compare(computed, [out.detach(), *(x.grad for x in inputs)], tolerance)


@pytest.mark.parametrize("lengths,dropout", [((1, 1), 0.0), ((20, 150), 0.0), ((150, 20), 0.1), ((65, 33), 0.5)])
@pytest.mark.parametrize("number_type,depth,offset", ALL_TYPES)
def test_cross_attention(
    number_type: str, depth: int, offset: int, lengths: tuple[int, int], dropout: float, folder: Path
) -> None:
    """Weights are dropped as the C++ kernels drop them, and the same ones in the gradient."""
    check_cross(Emulation(number_type, depth, folder, offset), TOLERANCES[number_type], lengths, dropout, folder)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_fresh_sizes(seed: int, folder: Path) -> None:
    """Random structure, depth, type, alignment and order of the threads."""
    draw = np.random.default_rng(seed)
    number_type = str(draw.choice(["BFloat16", "Float16", "Float32"]))
    depth = int(draw.choice([16, 32, 64])) - int(draw.integers(0, 16))
    offset, order = int(draw.integers(0, 4)), int(draw.choice(ORDERS))
    emulation = Emulation(number_type, depth, folder, offset, order)
    regions = tuple(int(n) for n in draw.integers(1, 5, 2))
    patches = tuple(int(n) + int(draw.integers(0, 12)) for n in regions)
    case = (int(draw.integers(0, 4)), patches, regions, int(draw.integers(0, 80)), 2)
    check_regions(emulation, TOLERANCES[number_type], case, int(draw.integers(1, 4)), seed)
    lengths = tuple(int(n) for n in draw.integers(1, 200, 2))
    check_cross(emulation, TOLERANCES[number_type], lengths, float(draw.choice([0.0, 0.2])), folder)


def some_results(emulation: Emulation) -> list[torch.Tensor]:
    leading, patches, regions, prompts, _ = REGION_CASES[3]
    length, width = leading + int(np.prod(patches)) + int(np.prod(regions)), emulation.depth
    shapes = (1, length, 3 * width), (1, prompts, 3 * width), (1, length, width)
    projected, of_prompts, grad = random_tensors(emulation, 3, *shapes)
    return emulation.joint(projected, of_prompts, 1, REGIONS, (leading, *patches, *regions), grad)


@pytest.mark.parametrize("number_type,depth", [("BFloat16", 64), ("Float32", 24)])
def test_order_of_threads_changes_no_bit(number_type: str, depth: int, folder: Path) -> None:
    results = [some_results(Emulation(number_type, depth, folder, order=order)) for order in ORDERS]
    for others in results[1:]:
        for ours, theirs in zip(results[0], others, strict=True):
            assert torch.equal(ours, theirs)


def test_missing_barriers_and_waits_are_noticed(folder: Path) -> None:
    """The proof of the test above: without them some order gives another result."""
    right = some_results(Emulation("BFloat16", 64, folder))
    for order, missing in ((1, "barriers"), (2, "barriers"), (1, "waits")):
        emulation = Emulation("BFloat16", 64, folder, order=order)
        setattr(emulation, missing, False)
        wrong = some_results(emulation)
        assert not all(torch.equal(ours, theirs) for ours, theirs in zip(right, wrong, strict=True)), missing


def test_grids_of_more_rows_than_cuda_takes(folder: Path) -> None:
    """Batch times heads is not limited to 65535; a prime number of rows beyond is left for CUDA to refuse."""
    slices = compile_library("dropped.cpp", folder, ("-march=native",)).grid_slices
    for rows in (1, 65535, 65536, 12 * 6000, 12 * 8192 * 3):
        assert rows % slices(rows) == 0 and rows // slices(rows) <= 65535
        assert slices(rows) <= rows // 65535 * 2 + 1
    assert slices(65537) == 65537
