"""Choosing gamma: the sweep's labels against a plain argmax."""

import numpy as np
import pytest

from jseg.calibration import best_of_group, calibrated_labels

SEEN, UNSEEN = (0, 2, 3), (1, 4)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5])
def test_labels_equal_the_argmax_of_calibrated_scores(gamma: float) -> None:
    """Scores on a coarse grid, so that there are ties within and between the groups; they go to the lowest class."""
    scores = np.random.default_rng(0).integers(0, 5, (5, 40, 50)).astype(np.float32) / 4
    calibrated = scores.copy()
    calibrated[list(SEEN)] -= np.float32(gamma)
    found = calibrated_labels(best_of_group(scores, SEEN), best_of_group(scores, UNSEEN), gamma)
    np.testing.assert_array_equal(found, calibrated.argmax(axis=0))
    assert found.dtype == np.int32
