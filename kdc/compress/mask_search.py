"""mask_search: heads and neurons cut together, by what they cost, without training."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveInt

from kdc.compress.base import PASSES, Done, Family, WeightPass
from kdc.compress.gradual import Ratio
from kdc.compress.plan import PrecisionPlan
from kdc.compress.scope import chosen
from kdc.compress.tuning import Tune, tune
from kdc.compress.units import Units, by_unit, cut, described, heads, neurons
from kdc.errors import KdcError

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration
    from kdc.models.anatomy import Layer


@PASSES.register("mask_search")
class MaskSearch(WeightPass):
    """Takes the share `ratio` of the MACs of all attention heads and feed-forward neurons (Kwon et al. 2022,
    arXiv:2204.09656).

    Which ones, the empirical Fisher information of masks on them tells: first its diagonal, over all layers (algorithm
    1), then each layer's own block, since units stand in for one another (`rearrange`, section 4.2). `tune` fits what
    is left to what the layers put out (section 4.3 for `scales`). Every layer keeps a head and a neuron. `include` and
    `exclude` are shell patterns of layers' names; the share is of the chosen ones.
    """

    family: ClassVar[Family] = "prune"
    cuts_units: ClassVar[bool] = True
    name: Literal["mask_search"]
    ratio: Ratio = 0.4
    rearrange: bool = True
    tune: Tune = "scales"
    calibration_rows: PositiveInt = 2048
    include: list[str] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list)

    @property
    def rows_to_see(self) -> int:
        return self.calibration_rows

    def apply(self, model: nn.Module, plan: PrecisionPlan, rows: Calibration | None = None) -> Done:
        from kdc.models.shapes import refresh

        assert rows is not None
        found = self.targets(model)
        attention = [heads(layer.name, layer.attention) for layer in found]
        forward = [neurons(layer.name, layer.feed_forward) for layer in found]
        information = _information(model, [*attention, *forward], rows)
        head_cost, neuron_cost = costs(model, attention[0], tokens=rows.positions(model, attention[0].reader))
        kept = search(
            [np.diag(information[units.reader]) for units in attention],
            [np.diag(information[units.reader]) for units in forward],
            costs=(head_cost, neuron_cost),
            ratio=self.ratio,
        )
        every = [*attention, *forward]
        if self.rearrange:
            kept = [rearranged(information[units.reader], stay) for units, stay in zip(every, kept, strict=True)]
        tune(model, every, kept, rows, self.tune)
        for units, stay in zip(every, kept, strict=True):
            cut(model, units, stay)
        refresh(model)
        sizes = [(units.name, (units.count, len(stay))) for units, stay in zip(every, kept, strict=True)]
        lines = described(dict(sizes[: len(found)]), "heads") + described(dict(sizes[len(found) :]), "neurons")
        return Done(model, plan, lines)

    def targets(self, model: nn.Module) -> list[Layer]:
        from kdc.models.anatomy import layers

        every = {layer.name: layer for layer in layers(model, "compress.mask_search")}
        names, _ = chosen(self.name, every, self.include, self.exclude)
        return [every[name] for name in names]


def costs(model: nn.Module, attention: Units, *, tokens: float) -> tuple[float, float]:
    """MACs a token of one head and of one neuron, in texts of so many tokens."""
    from kdc.models.anatomy import width

    hidden = width(model.get_submodule(attention.reader))
    return 4 * hidden * attention.size + 2 * tokens * attention.size, 2.0 * hidden


def search(
    attention: list[np.ndarray], forward: list[np.ndarray], *, costs: tuple[float, float], ratio: float
) -> list[np.ndarray]:
    """Which heads and which neurons of every layer to keep: the least information lost for the budget.

    For every number of heads, the most informative ones, and as many neurons as their cost leaves (Kwon et al. 2022,
    algorithm 1). The best of each layer stays in any case.
    """
    head_cost, neuron_cost = costs
    head_order, neuron_order = _by_worth(attention), _by_worth(forward)
    head_worth = np.concatenate(attention)[head_order]
    neuron_worth = np.concatenate(forward)[neuron_order]
    budget = (1 - ratio) * (len(head_worth) * head_cost + len(neuron_worth) * neuron_cost)
    least = len(attention)
    best, stays = -np.inf, (0, 0)
    for number in range(least, len(head_worth) + 1):
        room = int((budget - number * head_cost) // neuron_cost)
        if room < least:
            break
        room = min(room, len(neuron_worth))
        worth = head_worth[:number].sum() + neuron_worth[:room].sum()
        if worth > best:
            best, stays = worth, (number, room)
    if best == -np.inf:
        raise KdcError(f"compress.mask_search.ratio: {ratio:g} leaves no head and neuron a layer", "lower it")
    return _split(head_order[: stays[0]], attention) + _split(neuron_order[: stays[1]], forward)


def _by_worth(layers: list[np.ndarray]) -> np.ndarray:
    """All units of all layers, numbered through, the most informative first, but before them the best of each layer."""
    starts = np.cumsum([0, *(len(layer) for layer in layers[:-1])])
    first = np.array([start + int(layer.argmax()) for start, layer in zip(starts, layers, strict=True)])
    order = np.argsort(-np.concatenate(layers), kind="stable")
    return np.concatenate([first, order[~np.isin(order, first)]])


def _split(numbers: np.ndarray, layers: list[np.ndarray]) -> list[np.ndarray]:
    """Units numbered through, as numbers within their layers, in order."""
    ends = np.cumsum([len(layer) for layer in layers])
    numbers = np.sort(numbers)
    return [
        numbers[(numbers >= end - len(layer)) & (numbers < end)] - (end - len(layer))
        for end, layer in zip(ends, layers, strict=True)
    ]


def rearranged(information: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """As many units as `kept`, exchanged one by one while that lowers m'Fm for the mask m of those that go.

    `information` is F `[units, units]`: units that do the same are worth little each, and much together.
    """
    gone = np.ones(len(information), dtype=bool)
    gone[kept] = False
    beside = information[:, gone].sum(axis=1)  # what each unit has in common with all that go
    changed = True
    while changed:
        changed = False
        for unit in np.flatnonzero(gone):
            gone[unit] = False
            beside -= information[:, unit]
            loss = information.diagonal() + 2 * beside
            loss[gone] = np.inf
            other = int(loss.argmin())
            swap = loss[other] < loss[unit] - 1e-9 * abs(loss[unit])  # by more than rounding, or it never ends
            goes = other if swap else unit
            gone[goes] = True
            beside += information[:, goes]
            changed |= bool(swap)
    return np.flatnonzero(~gone)


def _information(model: nn.Module, every: list[Units], rows: Calibration) -> dict[str, np.ndarray]:
    """The mean over rows of dL/dm dL/dm' for masks m on a layer's units, by reader: `[units, units]`."""
    totals = {units.reader: np.zeros((units.count, units.count)) for units in every}
    for changes in rows.saliencies(model, list(totals)):
        for units in every:
            slopes = by_unit(changes[units.reader], units).sum(axis=-1)  # [rows, units]
            totals[units.reader] += slopes.T @ slopes / len(rows.rows)
    return totals
