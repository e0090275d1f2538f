"""Class names, splits, colours and label values: files hold stored values, label maps class numbers and 255 = ignored.

Names and unseen classes are those of the published configurations (VOC and COCO-Stuff: jseg/released_configs.py; PASCAL
Context split A: the ZS3 and OTSeg line of work, split B: Cascade-CLIP; ADE20K: first synonyms of the 150 classes of
http://sceneparsing.csail.mit.edu), the colours those of VOC's development kit
(https://host.robots.ox.ac.uk/pascal/VOC/voc2012).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from jseg.config import DataConfig
from jseg.errors import UserError, listed
from jseg.released_configs import NAMES, UNSEEN, split_names

CONTEXT_NAMES = split_names("""
    aeroplane, bag, bed, bedclothes, bench, bicycle, bird, boat, book, bottle, building, bus, cabinet, car, cat,
    ceiling, chair, cloth, computer, cow, cup, curtain, dog, door, fence, floor, flower, food, grass, ground, horse,
    keyboard, light, motorbike, mountain, mouse, person, plate, platform, pottedplant, road, rock, sheep, shelves,
    sidewalk, sign, sky, snow, sofa, table, track, train, tree, truck, tvmonitor, wall, water, window, wood
""")  # fmt: skip

ADE20K_NAMES = split_names("""
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
    table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field,
    armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard,
    chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway,
    case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower,
    book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine,
    hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane,
    dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship,
    fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag,
    minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher,
    screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate,
    monitor, bulletin board, shower, radiator, glass, clock, flag
""")  # fmt: skip

# Each pair of words names one class only, so that any two of colour, pattern and shape tell it; each word of an unseen
# class occurs in at least two seen ones.
SHAPES_NAMES = split_names("""
    red striped circle, red dotted square, red ringed star, yellow dotted triangle, yellow checked star,
    yellow ringed cross, green striped triangle, green checked cross, green ringed circle, blue striped star,
    blue dotted cross, blue checked circle, purple striped cross, purple checked square, purple ringed triangle,
    red checked triangle, yellow striped square, green dotted star, blue ringed square, purple dotted circle
""")  # fmt: skip
SHAPES_OPEN_NAMES = split_names("""
    red dotted circle, red ringed square, red checked star, yellow ringed triangle, yellow striped star,
    yellow checked cross, green dotted triangle, green striped cross, green checked circle, blue dotted star,
    blue ringed cross, blue striped circle, purple dotted cross, purple striped square, purple checked triangle,
    red striped triangle, yellow dotted square, green ringed star, blue checked square, purple ringed circle
""")  # fmt: skip

OWN = "custom"  # data.dataset of your own data
IGNORED = 255  # in label maps: no class, left out of training targets and metrics
GREY = (128, 128, 128)  # RGB of pixels of no class
COLOUR_WORDS = {  # that a class name may hold
    "red": (230, 0, 0), "orange": (255, 125, 0), "brown": (140, 80, 35), "yellow": (255, 230, 0), "blue": (50, 99, 255),
    "green": (40, 190, 40), "purple": (150, 50, 210), "violet": (150, 50, 210), "pink": (255, 140, 200),
    "white": (255, 255, 255), "black": (35, 35, 35), "grey": (190, 190, 190), "gray": (190, 190, 190),
}  # fmt: skip
UNSEEN_PIXEL = -1  # transductive target: "some unseen class", which the losses replace by pseudo-labels


@dataclass(frozen=True)
class ClassList:
    """The classes of a data set in the order of their training labels."""

    dataset: str
    split: str  # name of the seen/unseen split; "" where the data set has only one
    names: tuple[str, ...]
    unseen: tuple[int, ...]
    stored: tuple[int, ...]  # pixel value of each class in the label PNGs
    stored_ignored: tuple[int, ...]  # pixel values that mean "no class"
    colours: tuple[tuple[int, int, int], ...] = ()  # RGB of each class; () = VOC's in published data sets, else by name

    @property
    def seen(self) -> tuple[int, ...]:
        """Indices of the seen classes, in order."""
        return tuple(index for index in range(len(self.names)) if index not in self.unseen)

    @property
    def palette(self) -> np.ndarray:
        """Colour of each class, (C, 3) uint8 RGB."""
        published = self.dataset in ("voc12", "coco_stuff", "context", "ade20k")
        found = self.colours or (voc_palette(len(self.names) + 1)[1:] if published else class_palette(self.names))
        return np.array(found, np.uint8)

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


def class_palette(names: Sequence[str]) -> np.ndarray:
    """(C, 3) uint8 RGB: a bright colour for each class, far from the others and from grey; what its name says, if so.

    A name with a colour word gets a colour that is nearer to this one than to any other of `COLOUR_WORDS`.
    """
    grid = np.indices((8, 8, 8)).reshape(3, -1).T * 255 // 7
    colours = np.vstack([grid, [*COLOUR_WORDS.values()], [GREY]]).astype(np.uint8)
    places = cv2.cvtColor(colours[None] / np.float32(255), cv2.COLOR_RGB2LAB)[0]
    apart = np.linalg.norm(places[:, None] - places, axis=2)  # as the eye sees it: CIE 1976
    words, nearest = dict(zip(COLOUR_WORDS, apart[len(grid) : -1], strict=True)), apart[-1]
    bright = (places[:, 0] >= 40) & (np.hypot(places[:, 1], places[:, 2]) >= 35)  # lightness, saturation
    spoken = [next((word for word in name.lower().split() if word in words), "") for name in names]
    chosen = np.zeros(len(names), int)
    for index in sorted(range(len(names)), key=lambda index: not spoken[index]):
        allowed = bright
        if word := spoken[index]:
            own = words[word]
            close = bright & (own <= 60) if bright[own.argmin()] else own <= 20  # white has only one tone
            allowed = close & (own <= np.min([*words.values()], axis=0)) if nearest[own.argmin()] < 20 else own == 0
        chosen[index] = np.where(allowed, nearest, -1).argmax()
        nearest = np.minimum(nearest, apart[:, chosen[index]])
    return colours[chosen]


_CLASS_LISTS = (
    ClassList("shapes", "", SHAPES_NAMES, tuple(range(15, 20)), tuple(range(20)), (IGNORED,)),
    ClassList("shapes_open", "", SHAPES_OPEN_NAMES, (), tuple(range(20)), (IGNORED,)),
    ClassList("voc12", "", NAMES["voc12"], UNSEEN["voc12"], tuple(range(1, 21)), (0, IGNORED)),
    ClassList("coco_stuff", "", NAMES["coco_stuff"], UNSEEN["coco_stuff"], tuple(range(171)), (IGNORED,)),
    ClassList("context", "A", CONTEXT_NAMES, (0, 6, 7, 14, 19, 24, 31, 33, 48, 54), tuple(range(1, 60)), (0, IGNORED)),
    ClassList("context", "B", CONTEXT_NAMES, (0, 2, 3, 7, 9, 13, 17, 19, 31, 37), tuple(range(1, 60)), (0, IGNORED)),
    ClassList("ade20k", "", ADE20K_NAMES, (), tuple(range(1, 151)), (0,)),
)


def class_list(dataset: str, split: str = "") -> ClassList:
    """The class list of a data set; `split` "" is its default, "unseen: cow, sofa" your own. UserError: no such one."""
    splits = {item.split: item for item in _CLASS_LISTS if item.dataset == dataset}
    if not splits:
        choices = ", ".join(dict.fromkeys([*(item.dataset for item in _CLASS_LISTS), OWN]))
        raise UserError(f"data.dataset={dataset!r} is not known: choose from {choices}")
    if split.startswith("unseen: "):
        first, names = next(iter(splits.values())), [name.strip() for name in split.partition(":")[2].split(",")]
        if unknown := [name for name in names if name not in first.names]:
            raise UserError(f"data.split={split!r}: {listed(unknown)} not among the classes of {dataset}")
        return replace(first, split=split, unseen=tuple(sorted(map(first.names.index, names))))
    if split and split not in splits:
        raise UserError(f"data.split={split!r}: {dataset} has {', '.join(splits) or 'only one: leave the key out'}")
    return splits[split] if split else next(iter(splits.values()))


def own_classes(data: DataConfig) -> ClassList:
    """The class list that the keys of your own data describe; UserError says which of them do not fit together."""
    names, count = data.names, len(data.names)
    stored = data.stored or tuple(value for value in range(256) if value not in data.ignored)[:count]
    values, unknown = [*stored, *{*data.ignored}], [name for name in data.unseen if name not in names]
    numbers = [value for colour in data.palette for value in colour]
    for broken, message in (
        (not names, f"data.dataset={OWN!r} needs data.names, the classes in the order of data.stored"),
        (any(name.startswith("?") for name in names), "data.names: write names in place of those that begin with ?"),
        (len({*names}) < count, f"data.names: {listed(twice(names))} is there twice"),
        (len(stored) != count, f"data.names has {count} names, data.stored {len(stored)} values: give one for each"),
        (len({*values}) < len(values), f"data.stored, data.ignored: {listed(twice(values))} is there twice"),
        (unknown, f"data.unseen: {listed(unknown)} not among data.names ({listed(names)})"),
        (not (data.unseen or data.held_out or data.setting == "supervised"),
         "data.unseen is empty: name the classes that training does not see, or set data.setting='supervised'"),
        ({*names} == {*data.unseen}, "data.unseen holds all classes: none is left to train on"),
        (len(data.palette) not in (0, count), f"data.palette has {len(data.palette)} colours for {count} classes"),
        (any(not 0 <= value <= 255 for value in numbers), "data.palette: red, green and blue must be 0..255"),
        (any(data.title == item.dataset for item in _CLASS_LISTS), f"data.title={data.title!r} is a data set of jseg"),
    ):  # fmt: skip
        if broken:
            raise UserError(message)
    unseen = tuple(index for index, name in enumerate(names) if name in data.unseen)
    return ClassList(data.title or OWN, data.split, names, unseen, stored, data.ignored, data.palette)


def twice(items: Sequence) -> list:
    """Those that occur more than once, in order."""
    return [item for item, times in Counter(items).items() if times > 1]


def classes_of(data: DataConfig) -> ClassList:
    """The class list that a configuration asks for; with `data.held_out` one to calibrate gamma on.

    That one holds the seen classes, numbered anew, with the held-out ones as the unseen ones; pixels of truly unseen
    classes are ignored. UserError when the held-out classes are not some of the seen ones.
    """
    own, held_out = data.dataset == OWN, data.held_out
    classes = own_classes(data) if own else class_list(data.dataset, data.split)
    described = data.title or data.names or data.unseen or data.stored or data.palette or data.ignored != (IGNORED,)
    if described and not own:
        keys = "data.title, names, unseen, stored, ignored, palette"
        raise UserError(f"{keys} describe your own data, not {data.dataset}: set data.dataset={OWN!r}")
    if not held_out:
        return classes
    seen = [classes.names[index] for index in classes.seen]
    if len({*held_out} & {*seen}) < len(held_out) or len(held_out) >= len(seen):
        rule = f"must be some, not all, of the seen classes of {classes.title}: choose from {', '.join(seen)}"
        raise UserError(f"data.held_out={tuple(held_out)}: {rule}")
    return replace(
        classes,
        split=f"{classes.split + ', ' if classes.split else ''}held out: {', '.join(sorted(held_out, key=seen.index))}",
        names=tuple(seen), unseen=tuple(sorted(seen.index(name) for name in held_out)),
        stored=tuple(classes.stored[index] for index in classes.seen),
        stored_ignored=(*(classes.stored[index] for index in classes.unseen), *classes.stored_ignored),
        colours=tuple(classes.colours[index] for index in classes.seen) if classes.colours else (),
    )  # fmt: skip


def stored_lookup(class_list: ClassList) -> np.ndarray:
    """(256,) int16: stored pixel value -> class number, 255 for ignored, -1 for values outside the class list."""
    lookup = np.full(256, -1, np.int16)
    lookup[list(class_list.stored_ignored)] = IGNORED
    lookup[list(class_list.stored)] = np.arange(len(class_list.stored))
    return lookup


def class_labels(stored: np.ndarray, class_list: ClassList, where: str) -> np.ndarray:
    """(H, W) uint8 stored values -> (H, W) uint8 class numbers, 255 = ignored; UserError for values of no class."""
    labels = stored_lookup(class_list)[stored]
    if (labels < 0).any():
        values = listed(np.unique(stored[labels < 0]).tolist())
        first, last = class_list.stored[0], class_list.stored[-1]
        known = f"{first}-{last}" if last - first == len(class_list.stored) - 1 else listed(class_list.stored, 20)
        known = " and ".join(filter(None, (known, listed(class_list.stored_ignored))))
        title = class_list.title
        raise UserError(f"{where}: label values {values} are not in the class list of {title} (it has {known})")
    return labels.astype(np.uint8)


def stored_labels(labels: np.ndarray, class_list: ClassList) -> np.ndarray:
    """Class numbers -> stored values, for label PNGs in the data set's own numbering; ignored pixels become 255."""
    lookup = np.full(256, IGNORED, np.uint8)
    lookup[: len(class_list.stored)] = class_list.stored
    return lookup[labels]


def training_classes(class_list: ClassList, setting: str) -> tuple[int, ...]:
    """Class numbers whose text features a run of `setting` trains with, in order of its training targets."""
    return class_list.seen if setting == "inductive" else tuple(range(len(class_list.names)))


def training_labels(labels: np.ndarray, class_list: ClassList, setting: str) -> np.ndarray:
    """Class numbers (any shape, 255 = ignored) -> int16 training targets of a setting.

    inductive: seen classes become 0..S-1, unseen ones 255; transductive: unseen ones `UNSEEN_PIXEL`; else unchanged.
    """
    lookup, classes = np.full(256, IGNORED, np.int16), training_classes(class_list, setting)
    lookup[list(classes)] = np.arange(len(classes))
    if setting == "transductive":
        lookup[list(class_list.unseen)] = UNSEEN_PIXEL
    return lookup[labels]
