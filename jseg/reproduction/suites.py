"""Suites of table rows that `tools/reproduce.py` can reproduce.

A row names a config; recipe and published numbers (`expected`) stand there and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jseg.config import Config, read_config, suggestion
from jseg.errors import UserError

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "configs"


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    name: str
    config: str  # file in configs/
    overrides: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)  # what --train runs
    start: str = ""  # row whose half-way weights the training starts from
    weights_of: str = ""  # row whose weights are evaluated; this row has no training of its own
    title: str = ""  # of the row in tables; "" = data set and setting

    @property
    def trains(self) -> bool:
        """Whether the row has a training of its own."""
        return not self.weights_of and not self.read().test.training_free

    @property
    def config_path(self) -> Path:
        """The config file."""
        return CONFIG_FOLDER / self.config

    def read(self, data_root: Path | None = None) -> Config:
        """The configuration; `data_root` is the folder that holds the data sets' folders."""
        return read_config(self.config_path, self.all_overrides(data_root))

    def all_overrides(self, data_root: Path | None = None) -> list[str]:
        """The row's overrides and, for data sets on disk, where the data set lies."""
        root = read_config(self.config_path, self.overrides).data.root
        if data_root is None or not root:
            return [*self.overrides]
        return [*self.overrides, f"data.root={data_root.resolve() / Path(root).name}"]


@dataclass(frozen=True)
class Suite:
    """Rows that belong together, in an order in which each finds what it starts from."""

    name: str
    rows: tuple[Row, ...]
    published: bool = True  # False: a benchmark of our own, whose runs are short and made without being asked for

    def chosen(self, names: Sequence[str]) -> tuple[Row, ...]:
        """The rows of these names, in the order of the suite; all of them when there are no names.

        Raises:
            UserError: an unknown name.
        """
        known = [row.name for row in self.rows]
        for name in names:
            if name not in known:
                raise UserError(f"--rows: {name!r} is no row of suite {self.name}{suggestion(name, known)}")
        return tuple(row for row in self.rows if not names or row.name in names)

    def row(self, name: str) -> Row:
        """The row of this name."""
        return next(row for row in self.rows if row.name == name)


def _three_settings(data_set: str, name: str = "", overrides: tuple[str, ...] = ()) -> tuple[Row, ...]:
    name = name or data_set
    inductive = f"{name}_inductive"
    return (
        Row(inductive, f"{data_set}_inductive.py", overrides),
        Row(f"{name}_transductive", f"{data_set}_transductive.py", overrides, start=inductive),
        Row(f"{name}_supervised", f"{data_set}_supervised.py", overrides),
    )


PAPER = Suite(
    "paper",
    (
        *_three_settings("voc12"),
        *_three_settings("coco_stuff"),
        *_three_settings("context", "context_A", ("data.split=A",)),
        *_three_settings("context", "context_B", ("data.split=B",))[:2],  # fully supervised, a split hides nothing
        Row("cross_coco_to_context", "cross_coco_to_context.py", weights_of="coco_stuff_inductive"),
        Row("cross_coco_to_voc12", "cross_coco_to_voc12.py", weights_of="coco_stuff_inductive"),
    ),
)


def _shapes(name: str, title: str, start: str = "") -> Row:
    return Row(f"shapes_{name}", f"shapes_{name}.py", seeds=(0, 1, 2), start=start, title=title)


SHAPES = Suite(
    "shapes",
    (
        _shapes("patch_features", "CLIP's patch features, no learning"),
        _shapes("value_path", "CLIP's value path, no learning"),
        _shapes("class_token", "CLIP's value path read by the class token, no learning"),
        _shapes("inductive", "CLIP-RC, inductive"),
        _shapes("transductive", "CLIP-RC, transductive", start="shapes_inductive"),
        _shapes("supervised", "CLIP-RC, fully supervised"),
        _shapes("short", "inductive, short: what the rows below change one thing of"),
        _shapes("no_regions", "short, no regions"),
        _shapes("no_recovery", "short, no recovery"),
        _shapes("neither", "short, neither (ZegCLIP-like)"),
        _shapes("1_region", "short, 1 region instead of 16"),
        _shapes("4_regions", "short, 4 regions instead of 16"),
        _shapes("recovery_3", "short, recovery depth 3 instead of 1"),
    ),
    published=False,
)
SUITES = {suite.name: suite for suite in (PAPER, SHAPES)}
