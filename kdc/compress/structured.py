"""What passes that cut units have in common: their settings, and the cut."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveInt

from kdc.compress.base import Done
from kdc.compress.gradual import Gradual
from kdc.compress.plan import PrecisionPlan
from kdc.compress.scope import chosen
from kdc.compress.tuning import Tune, tune
from kdc.compress.units import Score, Units, choose, cut, described, scores
from kdc.errors import KdcError

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration
    from kdc.models.anatomy import Layer


class PruneUnits(Gradual):
    """Cuts the share `ratio` of the units that matter least, by `score`; shapes really change.

    `ratio` is what is gone in the end. `uniform` cuts as many of every layer; otherwise layers compete. `include` and
    `exclude` are shell patterns of layers' names.
    """

    cuts_units: ClassVar[bool] = True
    noun: ClassVar[str]
    score: Score = "taylor"
    uniform: bool = False
    align: PositiveInt = 1
    """Layers keep a multiple of this many units where they can: vector units like round numbers."""
    tune: Tune = "none"
    """Fit what is left of a layer to what it put out before: a factor for each unit (`scales`), or all weights."""
    calibration_rows: PositiveInt = 512
    """Training rows that `tune` and scores other than norms of weights look at."""
    include: list[str] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list)

    @property
    def rows_to_see(self) -> int:
        return 0 if self.score in ("l1", "l2") and self.tune == "none" else self.calibration_rows

    def apply(self, model: nn.Module, plan: PrecisionPlan, rows: Calibration | None = None) -> Done:
        from kdc.models.shapes import refresh

        all_units, every = self.targets(model)
        worth = scores(model, all_units, self.score, rows)
        kept = choose(worth, self.ratio, uniform=self.uniform, align=self.align, whole=self._whole)
        tune(model, all_units, kept, rows, self.tune)
        for units, numbers in zip(all_units, kept, strict=True):
            cut(model, units, numbers)
        refresh(model)
        self.note_config(model, {len(numbers) for numbers in kept} if every else set())
        sizes = {units.name: (units.count, len(numbers)) for units, numbers in zip(all_units, kept, strict=True)}
        return Done(model, plan, described(sizes, self.noun))

    def targets(self, model: nn.Module) -> tuple[list[Units], bool]:
        """Units of the chosen layers, and whether these are all."""
        from kdc.models.anatomy import layers

        every = {layer.name: self.units(layer) for layer in layers(model, f"compress.{self.name}")}
        names, _ = chosen(self.name, every, self.include, self.exclude)
        units = [every[name] for name in names]
        whole = sum(self._whole or [one.count for one in units])
        if whole - math.floor(self.ratio * whole) < len(units):
            raise KdcError(
                f"compress.{self.name}.ratio={self.ratio:g} leaves fewer {self.noun} than layers, and each needs one",
                f"take at most {1 - len(units) / whole:.3g}, or prune_layers",
            )
        return units, len(names) == len(every)

    def sizes(self, model: nn.Module) -> list[int]:
        return [units.count for units in self.targets(model)[0]]

    @abstractmethod
    def units(self, layer: Layer) -> Units:
        """What this pass cuts of a layer."""

    def note_config(self, model: nn.Module, counts: set[int]) -> None:
        """Tell the model's config, where it can say it, how many units all layers have now: `counts` has one member."""
