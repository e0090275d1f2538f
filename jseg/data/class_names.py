"""Class names, seen/unseen splits, stored label values and colours of every data set: each fact once.

Names in the order of their training labels and the unseen indices are those of the published configurations
(https://github.com/ZiqinZhou66/ZegCLIP, https://github.com/uyzhang/CLIP-RC; PASCAL Context split A: the
ZS3 and OTSeg line of work, split B: Cascade-CLIP). Palette:
https://host.robots.ox.ac.uk/pascal/VOC/voc2012 (development kit).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from jseg.config import DataConfig
from jseg.errors import UserError


def _names(text: str) -> tuple[str, ...]:
    return tuple(" ".join(text.split()).split(", "))


VOC12_NAMES = _names(
    """
    aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike, person,
    pottedplant, sheep, sofa, train, tvmonitor
    """
)

COCO_STUFF_NAMES = _names(
    """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors,
    teddy bear, hair drier, toothbrush, banner, blanket, branch, bridge, building-other, bush, cabinet, cage,
    cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff,
    dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other,
    fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss,
    mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, platform, playingfield, railing,
    railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs,
    stone, straw, structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete,
    wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other,
    wood
    """
)

CONTEXT_NAMES = _names(
    """
    aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle, building, bus, cabinet, car, cat,
    ceiling, chair, cloth, computer, cow, cup, curtain, dog, door, fence, floor, flower, food, grass, ground, horse,
    keyboard, light, motorbike, mountain, mouse, person, plate, platform, pottedplant, road, rock, sheep, shelves,
    sidewalk, sign, sky, snow, sofa, table, track, train, tree, truck, tvmonitor, wall, water, window, wood
    """
)

# Each pair of words names one class only, so that any two of colour, pattern and shape tell it; each word of an unseen
# class occurs in at least two seen ones.
SHAPES_NAMES = _names(
    """
    red striped circle, red dotted square, red ringed star, yellow dotted triangle, yellow checked star,
    yellow ringed cross, green striped triangle, green checked cross, green ringed circle, blue striped star,
    blue dotted cross, blue checked circle, purple striped cross, purple checked square, purple ringed triangle,
    red checked triangle, yellow striped square, green dotted star, blue ringed square, purple dotted circle
    """
)

IGNORED = 255  # in label maps: no class, left out of training targets and metrics

# Ids of COCO's stuffthingmaps; in order they are the training labels 0..170.
# https://github.com/nightrome/cocostuff (labels.txt, counted from 0)
COCO_STUFF_IDS = tuple(value for value in range(182) if value not in (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90))

# Ids of CONTEXT_NAMES, in order, among the 459 categories of PASCAL-Context's label files; any other id is background.
# https://cs.stanford.edu/~roozbeh/pascal-context
CONTEXT_IDS = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159,
    162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368,
    397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip


@dataclass(frozen=True)
class ClassList:
    """The classes of a data set in the order of their training labels.

    `stored[i]` is the pixel value of class i in the label PNGs, `stored_ignored` are the values that mean "no class".
    """

    dataset: str
    split: str  # name of the seen/unseen split; "" where the data set has only one
    names: tuple[str, ...]
    unseen: tuple[int, ...]
    stored: tuple[int, ...]
    stored_ignored: tuple[int, ...]

    @property
    def seen(self) -> tuple[int, ...]:
        """Indices of the seen classes, in order."""
        return tuple(index for index in range(len(self.names)) if index not in self.unseen)

    @property
    def palette(self) -> np.ndarray:
        """Colour of each class, (C, 3) uint8 RGB."""
        return voc_palette(len(self.names) + 1)[1:]

    @property
    def title(self) -> str:
        """Data set with its split, as results name it: `context (split A)`."""
        return f"{self.dataset} (split {self.split})" if self.split else self.dataset


def voc_palette(count: int) -> np.ndarray:
    """The first `count` (at most 256) colours of PASCAL VOC's palette, (count, 3) uint8 RGB; the first is black."""
    indices = np.arange(count)[:, None]
    colours = np.zeros((count, 3), np.int64)
    for place in range(3):  # bit 3 * place + channel of the index becomes bit 7 - place of that channel
        colours |= (indices >> (3 * place + np.arange(3)) & 1) << (7 - place)
    return colours.astype(np.uint8)


_COCO_UNSEEN = (19, 23, 28, 29, 36, 51, 76, 88, 94, 112, 133, 136, 137, 157, 160)
_CLASS_LISTS = (
    ClassList("shapes", "", SHAPES_NAMES, tuple(range(15, 20)), tuple(range(20)), (IGNORED,)),
    ClassList("voc12", "", VOC12_NAMES, tuple(range(15, 20)), tuple(range(1, 21)), (0, IGNORED)),
    ClassList("coco_stuff", "", COCO_STUFF_NAMES, _COCO_UNSEEN, tuple(range(171)), (IGNORED,)),
    ClassList("context", "A", CONTEXT_NAMES, (0, 6, 7, 14, 19, 24, 31, 33, 48, 54), tuple(range(1, 60)), (0, IGNORED)),
    ClassList("context", "B", CONTEXT_NAMES, (0, 2, 3, 7, 9, 13, 17, 19, 31, 37), tuple(range(1, 60)), (0, IGNORED)),
)


def class_list(dataset: str, split: str = "") -> ClassList:
    """The class list of a data set; `split` "" is its default split. UserError lists the choices."""
    splits = {item.split: item for item in _CLASS_LISTS if item.dataset == dataset}
    if not splits:
        choices = ", ".join(dict.fromkeys(item.dataset for item in _CLASS_LISTS))
        raise UserError(f"data.dataset={dataset!r} is not known: choose from {choices}")
    if split and split not in splits:
        rule = "it has only one, leave the key out" if "" in splits else f"choose from {', '.join(splits)}"
        raise UserError(f"data.split={split!r} is not a split of {dataset}: {rule}")
    return splits[split] if split else next(iter(splits.values()))


def classes_of(data: DataConfig) -> ClassList:
    """The class list that a configuration asks for: that of its data set and split, or one for calibration."""
    classes = class_list(data.dataset, data.split)
    return held_out_list(classes, data.held_out) if data.held_out else classes


def held_out_list(classes: ClassList, held_out: Sequence[str]) -> ClassList:
    """The class list to calibrate gamma on: the seen classes, numbered anew, with `held_out` as the unseen ones.

    Pixels of truly unseen classes are ignored. UserError when `held_out` are not some of the seen classes.
    """
    seen = [classes.names[index] for index in classes.seen]
    if len({*held_out} & {*seen}) < len(held_out) or len(held_out) >= len(seen):
        raise UserError(
            f"data.held_out={tuple(held_out)}: must be some, not all, of the seen classes of {classes.title}: "
            f"choose from {', '.join(seen)}"
        )
    return replace(
        classes,
        split=f"{classes.split + ', ' if classes.split else ''}held out: {', '.join(sorted(held_out, key=seen.index))}",
        names=tuple(seen),
        unseen=tuple(sorted(seen.index(name) for name in held_out)),
        stored=tuple(classes.stored[index] for index in classes.seen),
        stored_ignored=(*(classes.stored[index] for index in classes.unseen), *classes.stored_ignored),
    )
