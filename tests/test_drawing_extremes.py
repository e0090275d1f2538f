"""Best and worst images of a data set, on one rank and on several."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from jseg import drawing_extremes
from jseg.data.class_names import class_list
from jseg.drawing_extremes import Extremes
from jseg.runtime.ranks import ALONE


class Images:
    """Grey images, whose label maps hold one class."""

    class_list = class_list("voc12")
    reads = 0

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray, str]:
        self.reads += 1
        return np.full((8, 8, 3), 99, np.uint8), np.zeros((8, 8), np.uint8), f"image_{index}"


@dataclass
class Several:
    """What several ranks have gathered."""

    shares: list = field(default_factory=list)
    first: bool = True

    def all_gather(self, value: tuple) -> list:
        return [*self.shares, value]


def captions(extremes: Extremes, ranks: object, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """Lines of the table and captions of the sheet."""
    shown: list[str] = []
    with monkeypatch.context() as patch:
        draw = drawing_extremes.drawing.sheet
        patch.setattr(drawing_extremes.drawing, "sheet", lambda examples, *rest: (
            shown.extend(name for name, *_ in examples), draw(examples, *rest))[1])  # fmt: skip
        table, sheet = extremes.files(ranks, ())
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
    return table.decode().splitlines(), shown


def filled(scores: dict[int, float | None]) -> Extremes:
    extremes = Extremes(Images())
    for index, score in scores.items():
        extremes.add(index, f"image_{index}", np.zeros((8, 8), np.int32), score)
    return extremes


def test_both_ends_of_any_order_are_kept_and_few_images_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scores = dict(enumerate(rng.permutation(100).astype(float).tolist()))
    ranked = sorted(scores, key=scores.get)
    expected = [f"best, {scores[i]:.1f}: image_{i}" for i in ranked[:-4:-1]]
    expected += [f"worst, {scores[i]:.1f}: image_{i}" for i in ranked[:3]]
    extremes = filled(scores)
    assert len(extremes.examples) == 6 and extremes.dataset.reads < 50
    lines, shown = captions(extremes, ALONE, monkeypatch)
    assert shown == expected and lines[1:] == [f"image_{index},{scores[index]:.2f}" for index in range(100)]
    odd, even = (filled({i: x for i, x in scores.items() if i % 2 == rest}) for rest in (1, 0))
    ranks = Several([(odd.names, odd.scores, odd.examples)])
    assert captions(even, ranks, monkeypatch) == (lines, expected)  # as on one rank
    ranks.first = False
    assert even.files(ranks, ()) is None


@pytest.mark.parametrize("count, best", [(0, 0), (1, 1), (2, 1), (5, 3), (6, 3)])
def test_no_image_is_there_twice_nor_one_without_labels(count: int, best: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, shown = captions(filled({**dict.fromkeys(range(count), 50.0), 9: None}), ALONE, monkeypatch)
    assert len(shown) == len({text.partition(": ")[2] for text in shown}) == count
    assert sum(text.startswith("best") for text in shown) == best
    assert lines[0] == "image (jseg),mIoU of its classes" and lines[-1] == "image_9,"
