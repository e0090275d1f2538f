"""Class lists for calibration: some seen classes play the unseen ones, and the truly unseen ones do not exist.

Gamma chosen on such a list has never met an unseen class, neither in training nor in the choice.
"""

from __future__ import annotations

from collections.abc import Sequence

from jseg.config import DataConfig
from jseg.data.class_names import ClassList, class_list
from jseg.errors import UserError


def classes_of(data: DataConfig) -> ClassList:
    """The class list that a configuration asks for: that of its data set and split, or one for calibration.

    Raises:
        UserError: unknown data set or split; held-out classes that cannot be held out.
    """
    classes = class_list(data.dataset, data.split)
    return held_out_list(classes, data.held_out) if data.held_out else classes


def held_out_list(classes: ClassList, held_out: Sequence[str]) -> ClassList:
    """The seen classes of a list, numbered anew, with `held_out` as the unseen ones; true unseen pixels are ignored.

    Raises:
        UserError: a name that is no seen class or is given twice, or no seen class left.
    """
    seen = [classes.names[index] for index in classes.seen]
    for name in held_out:
        if name not in seen:
            kind = "an unseen class" if name in classes.names else "no class"
            raise UserError(f"data.held_out: {name!r} is {kind} of {classes.title}: choose from {', '.join(seen)}")
    if len(set(held_out)) < len(held_out) or len(held_out) >= len(seen):
        raise UserError(f"data.held_out={tuple(held_out)}: must be different classes, fewer than the {len(seen)} seen")
    split = f"{classes.split + ', ' if classes.split else ''}held out: {', '.join(sorted(held_out, key=seen.index))}"
    return ClassList(
        dataset=classes.dataset,
        split=split,
        names=tuple(seen),
        unseen=tuple(sorted(seen.index(name) for name in held_out)),
        stored=tuple(classes.stored[index] for index in classes.seen),
        stored_ignored=(*(classes.stored[index] for index in classes.unseen), *classes.stored_ignored),
    )


def suggestion(classes: ClassList) -> tuple[str, ...]:
    """Seen classes to hold out: evenly spaced in the list, as large a share as the unseen ones have of all classes."""
    count = max(1, round(len(classes.seen) * len(classes.unseen) / len(classes.names)))
    places = [(2 * index + 1) * len(classes.seen) // (2 * count) for index in range(count)]
    return tuple(classes.names[classes.seen[place]] for place in places)
