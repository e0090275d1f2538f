"""What a comparison found: per file the worst array, what was left out on purpose, what nobody looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np

from jseg.parity.golden_file import GoldenFile
from jseg.parity.tolerances import Rule, find_rule

SHOWN_NAMES = 4  # of arrays that were not checked


@dataclass
class FileReport:
    """The result for one golden file."""

    name: str
    excess: dict[str, float] = field(default_factory=dict)  # array -> error over tolerance; at most 1 passes
    inputs: int = 0
    excluded: dict[str, str] = field(default_factory=dict)  # array -> why it is not compared
    unchecked: list[str] = field(default_factory=list)  # arrays that no check knows, or that no tolerance is given for
    not_run: str = ""  # why nothing was compared
    failure: str = ""  # why the check broke off

    @property
    def worst(self) -> tuple[str, float]:
        """Array with the largest error over tolerance."""
        return max(self.excess.items(), key=lambda item: item[1])

    @property
    def failed(self) -> bool:
        """Whether something is over its tolerance, or the check broke off."""
        return bool(self.failure) or any(not value <= 1 for value in self.excess.values())

    @property
    def passed(self) -> bool:
        """Whether something was compared and all of it is within tolerance."""
        return bool(self.excess) and not self.failed

    def line(self) -> str:
        """One line, such as `ok     0.031  forward_eval_A.npz  worst: q3 (28 arrays)`."""
        if self.failure:
            return f"FAILED     -  {self.name}  {self.failure}"
        if self.not_run:
            return f"not run    -  {self.name}  {self.not_run}"
        details = []
        if self.excess:
            name, value = self.worst
            details.append(f"worst: {name} ({len(self.excess)} compared)")
            number = f"{value:9.3g}"
        else:
            number = f"{'-':>9}"
            details.append("nothing compared")
        if self.excluded:
            details.append(f"{len(self.excluded)} left out on purpose")
        if self.unchecked:
            names = ", ".join(self.unchecked[:SHOWN_NAMES]) + (", …" if len(self.unchecked) > SHOWN_NAMES else "")
            details.append(f"NOT CHECKED: {len(self.unchecked)} ({names})")
        state = "FAILED" if self.failed else "ok    " if self.excess else "-     "
        return f"{state}{number}  {self.name}  {'; '.join(details)}"


def compare(
    report: FileReport,
    file: GoldenFile,
    computed: Mapping[str, np.ndarray],
    excluded: Mapping[str, str],
    rules: tuple[Rule, ...],
    factor: float,
) -> None:
    """Fills `report` with the comparison of all arrays of a file.

    Args:
        file: what was recorded; the arrays that were read from it count as inputs.
        computed: our arrays under the names of the file; those that the file does not hold are left alone.
        excluded: pattern of array names -> why they are not compared.
        rules: the first that matches a file and array decides.
        factor: multiplies the tolerances.
    """
    stem = f"{file.path.parent.name}/{file.stem}" if file.path.parent.name == "convert" else file.stem
    sum_lr = float(file.arrays["lr_trainable"].sum()) if "lr_trainable" in file.arrays else 0.0
    for name, reference in file.arrays.items():
        reason = next((why for pattern, why in excluded.items() if fnmatchcase(name, pattern)), None)
        if name in computed:
            rule = find_rule(rules, stem, name)
            if rule is None:
                report.unchecked.append(name)
            else:
                report.excess[name] = rule.excess(np.asarray(computed[name]), reference, factor, sum_lr)
        elif name in file.read:
            report.inputs += 1
        elif reason is not None:
            report.excluded[name] = reason
        else:
            report.unchecked.append(name)
