"""Scale of the loss in float16 training, so that small gradients are not rounded to 0.

Micikevicius et al., "Mixed Precision Training", ICLR 2018, section 3.2: a scale too large shows as a gradient that is
not finite; the step is left out and the scale halved. After a number of good steps it is doubled again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from jseg.errors import UserError

FIRST, LOWEST, HIGHEST = 2.0**16, 1.0, 2.0**24  # powers of two: scaling changes no digits
DOUBLED_AFTER = 2000  # good steps in a row
_KEY = "loss_scale"  # in a checkpoint's metadata


@dataclass
class LossScale:
    """What the loss is multiplied by, and the gradients divided by; checkpoints hold it."""

    scale: float = FIRST
    good_steps: int = 0  # in a row, since the scale last changed
    overflows: int = 0  # steps that were left out because of it

    def lower(self) -> bool:
        """Notes a gradient that was not finite; False when the scale is the lowest already, so not to blame."""
        if self.scale <= LOWEST:
            return False
        self.scale, self.good_steps, self.overflows = self.scale / 2, 0, self.overflows + 1
        return True

    def step(self) -> None:
        """Notes a good step."""
        self.good_steps += 1
        if self.good_steps >= DOUBLED_AFTER:
            self.scale, self.good_steps = min(2 * self.scale, HIGHEST), 0

    def meta(self) -> dict[str, Any]:
        """For a checkpoint's metadata."""
        return {_KEY: asdict(self)}


def loss_scale_of(meta: dict[str, Any], path: object) -> LossScale:
    """The scale that a checkpoint's metadata hold; a fresh one when they hold none (another precision until then).

    Raises:
        UserError: they hold something else; names `path`.
    """
    values = meta.get(_KEY, {})
    known = asdict(LossScale())
    fits = isinstance(values, dict) and all(type(value) is type(known.get(key)) for key, value in values.items())
    if not fits or not LOWEST <= LossScale(**values).scale <= HIGHEST:
        raise UserError(f"{path} records {_KEY}={values!r}: use another checkpoint")
    return LossScale(**values)
