"""The region-level bridge: which patches belong to a region and which token may attend to which. NumPy only.

Zhang et al., "Exploring Regional Clues in CLIP for Zero-Shot Semantic Segmentation", CVPR 2024, region-level bridge.
"""

from __future__ import annotations

import numpy as np

from jseg.errors import UserError


def check_region_grid(patch_grid: tuple[int, int], region_grid: tuple[int, int]) -> None:
    """Raises UserError unless every region gets at least one patch."""
    if region_grid[0] > patch_grid[0] or region_grid[1] > patch_grid[1]:
        raise UserError(
            f"model.region_grid: {region_grid[0]}x{region_grid[1]} regions do not fit into an image of "
            f"{patch_grid[0]}x{patch_grid[1]} patches: use a larger image or fewer regions"
        )


def region_of_patch(patch_grid: tuple[int, int], region_grid: tuple[int, int]) -> np.ndarray:
    """Index of the region that each patch belongs to, int32 (h * w,), row-major.

    A region is a block of h // rh by w // rw patches; patches left over at the right and the bottom belong to
    none, marked -1, and so do all where the region grid is (0, 0).
    """
    check_region_grid(patch_grid, region_grid)
    if not min(region_grid):
        return np.full(patch_grid[0] * patch_grid[1], -1, np.int32)
    rows = np.arange(patch_grid[0]) // (patch_grid[0] // region_grid[0])
    columns = np.arange(patch_grid[1]) // (patch_grid[1] // region_grid[1])
    region = rows[:, None] * region_grid[1] + columns[None, :]
    outside = (rows[:, None] >= region_grid[0]) | (columns[None, :] >= region_grid[1])
    return np.where(outside, -1, region).astype(np.int32).reshape(-1)


def attention_allowed(
    leading: int, patch_grid: tuple[int, int], region_grid: tuple[int, int], prompts: int = 0
) -> np.ndarray:
    """Who may attend to whom, bool (T, T + K): queries `[leading | patches | regions]`, keys these and K prompts.

    Leading tokens and patches see each other and the prompts; a region sees its own patches and itself, and of all
    other tokens only its own patches see it.
    """
    patches, regions = patch_grid[0] * patch_grid[1], region_grid[0] * region_grid[1]
    first_region, length = leading + patches, leading + patches + regions
    allowed = np.zeros((length, length + prompts), dtype=bool)
    allowed[:first_region, :first_region] = allowed[:first_region, length:] = True
    own = region_of_patch(patch_grid, region_grid)[:, None] == np.arange(regions)  # (N, M)
    allowed[leading:first_region, first_region:length] = own
    allowed[first_region:, leading:first_region] = own.T
    np.fill_diagonal(allowed[first_region:, first_region:length], True)
    return allowed
