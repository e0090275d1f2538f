"""The endless stream: every image once an epoch, the same from any starting point and for any number of ranks."""

from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from jseg.data.loader import augmentation_rng, endless_indices


@given(st.integers(1, 30), st.integers(0, 2**32 - 1), st.integers(0, 200), st.integers(1, 5))
def test_any_start_and_any_ranks_walk_the_same_stream(length: int, seed: int, start: int, world: int) -> None:
    whole = list(islice(endless_indices(length, seed), start + 4 * world))
    assert [position for position, _ in whole] == list(range(len(whole)))
    parts = [list(islice(endless_indices(length, seed, start, rank, world), 4)) for rank in range(world)]
    assert sorted(item for part in parts for item in part) == whole[start:]


@given(st.integers(1, 30), st.integers(0, 100))
def test_each_epoch_holds_every_index_once(length: int, seed: int) -> None:
    indices = [index for _, index in islice(endless_indices(length, seed), 3 * length)]
    for epoch in range(3):
        assert sorted(indices[epoch * length : (epoch + 1) * length]) == list(range(length))


def test_epochs_and_seeds_differ() -> None:
    first = [index for _, index in islice(endless_indices(50, 0), 100)]
    other = [index for _, index in islice(endless_indices(50, 1), 100)]
    assert first[:50] != first[50:] and first != other


def test_augmentation_depends_on_seed_and_position() -> None:
    draws = [augmentation_rng(seed, position).random() for seed in (0, 1) for position in (0, 1, 2)]
    assert len(set(draws)) == 6 and augmentation_rng(1, 2).random() == draws[5]
