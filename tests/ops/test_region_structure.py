"""Which patches belong to a region, and who may attend to whom."""

from __future__ import annotations

import numpy as np
import pytest

from jseg.ops.attention import attention_allowed, region_of_patch


def test_left_over_patches_belong_to_no_region() -> None:
    np.testing.assert_array_equal(
        region_of_patch((3, 5), (2, 2)).reshape(3, 5),
        [[0, 0, 1, 1, -1], [2, 2, 3, 3, -1], [-1] * 5],
    )


@pytest.mark.parametrize(("patch_grid", "side"), [((6, 4), 2), ((4, 6), 1), ((7, 9), 3), ((4, 4), 4), ((5, 8), 4)])
def test_mask_of_any_grid(patch_grid: tuple[int, int], side: int) -> None:
    leading, patches, regions = 4, patch_grid[0] * patch_grid[1], side * side
    allowed = attention_allowed(leading, patch_grid, (side, side))
    first = leading + patches
    np.testing.assert_array_equal(allowed, allowed.T)
    assert allowed[:first, :first].all()
    assert not allowed[first:, :leading].any()
    np.testing.assert_array_equal(allowed[first:, first:], np.eye(regions, dtype=bool))
    block = (patch_grid[0] // side) * (patch_grid[1] // side)
    np.testing.assert_array_equal(allowed[first:, leading:first].sum(axis=1), block)
    assert allowed[leading:first, first:].sum(axis=1).max() == 1
