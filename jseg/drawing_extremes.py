"""Which images of a data set are segmented best and worst: the figure of each image, and a sheet of both ends."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np

from jseg import drawing
from jseg.data.dataset import Dataset
from jseg.outputs import IMAGES_MARK
from jseg.runtime.ranks import Ranks

ENDS = 3  # images at each end


class Extremes:
    """Collects the mean IoU of the classes in each label map, and thumbnails of the images at both ends."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.names: dict[int, str] = {}  # by index in the data set
        self.scores: dict[int, float] = {}  # percent; without images that have no labelled pixel
        self.examples: dict[int, drawing.Example] = {}

    def ends(self, indices: Sequence[int]) -> tuple[list[int], list[int]]:
        """The best of `indices`, best first, and the worst of the others, worst first."""
        ranked = sorted(indices, key=lambda index: (-self.scores[index], index))
        best = ranked[: min(ENDS, -(-len(ranked) // 2))]
        return best, ranked[len(best) :][: -ENDS - 1 : -1]

    def add(self, index: int, name: str, labels: np.ndarray, score: float | None) -> None:
        """Adds an image: (H, W) predicted class ids, its score in percent, None = it has no labelled pixel."""
        self.names[index] = name
        if score is not None:
            self.scores[index] = score
            best, worst = self.ends([*self.examples, index])
            if index in (*best, *worst):
                image, truth, _ = self.dataset.read(index)
                self.examples[index] = drawing.thumbnail(name, image, labels, truth)
                self.examples = {kept: self.examples[kept] for kept in (*best, *worst)}

    def files(self, ranks: Ranks, unseen: Sequence[int]) -> tuple[bytes, np.ndarray] | None:
        """A CSV table of all images and the sheet, (H, W, 3) uint8 RGB, of all ranks together; None on the others."""
        for names, scores, examples in ranks.all_gather((self.names, self.scores, self.examples)):
            self.names, self.scores, self.examples = self.names | names, self.scores | scores, self.examples | examples
        if not ranks.first:
            return None
        rows = [(self.names[i], f"{self.scores[i]:.2f}" if i in self.scores else "") for i in sorted(self.names)]
        csv.writer(table := io.StringIO(), lineterminator="\n").writerows([(IMAGES_MARK, "mIoU of its classes"), *rows])
        examples, classes = [], self.dataset.class_list
        for word, indices in zip(("best", "worst"), self.ends([*self.examples]), strict=True):
            for index in indices:
                caption = f"{word}, {self.scores[index]:.1f}: {self.names[index]}"
                examples.append((caption, *self.examples[index][1:]))
        title = f"{classes.title}: best and worst of {len(self.scores)} images, by the mean IoU of their classes"
        return table.getvalue().encode(), drawing.sheet(examples, classes.names, classes.palette, unseen, title)
