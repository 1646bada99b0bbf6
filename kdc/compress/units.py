"""What structured pruning cuts: heads and neurons, how much each matters, which to keep, and the cut itself.

A unit is a group of inputs of one linear, with all that computes them: a neuron is one input of a layer's second
feed-forward linear, a head are the `head_size` inputs of its attention's output projection that one head makes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration
    from kdc.models.anatomy import Attention, FeedForward

Score = Literal["l1", "l2", "activation", "taylor", "fisher"]


@dataclass(frozen=True)
class Units:
    """`count` units of `size` inputs each of the linear `reader`, in the layer `name`.

    `makers` are the linears whose outputs they are; one that makes `parts` of them side by side (queries, keys, values)
    loses the same units of each part.
    """

    name: str
    reader: str
    makers: tuple[str, ...]
    count: int
    size: int = 1
    parts: int = 1


def neurons(layer: str, found: FeedForward) -> Units:
    return Units(layer, found.outer, found.inner, found.neurons)


def heads(layer: str, found: Attention) -> Units:
    parts = 3 if len(found.projections) == 1 else 1
    return Units(layer, found.output, found.projections, found.heads, found.head_size, parts)


def scores(model: nn.Module, all_units: list[Units], score: Score, rows: Calibration | None) -> list[np.ndarray]:
    """How much each unit matters, `[count]` for every entry of `all_units`; comparable between layers.

    `l1`, `l2`: that norm of all weights that go with the unit, over its layer's mean. `activation`: the root mean
    square of what the unit adds to its reader's output, if inputs were uncorrelated about zero: rms(x_i) *
    ||W[:, i]||, as Wanda (Sun et al. 2023, arXiv:2306.11695) has it weight by weight. `taylor`: the mean over rows of
    |dL/dm| for a mask m on the unit (Michel et al. 2019, arXiv:1905.10650, section 4). `fisher`: the mean over rows of
    (dL/dm)^2, the diagonal of the empirical Fisher information (Kwon et al. 2022, arXiv:2204.09656, section 3).
    """
    if score in ("l1", "l2"):
        found = [_norm(model, units, power=1 if score == "l1" else 2) for units in all_units]
        return [values / values.mean() for values in found]
    assert rows is not None
    if score == "activation":
        return _activation(model, all_units, rows)
    size: Callable[[np.ndarray], np.ndarray] = np.abs if score == "taylor" else np.square
    totals = [np.zeros(units.count) for units in all_units]
    for changes in rows.saliencies(model, [units.reader for units in all_units]):
        for total, units in zip(totals, all_units, strict=True):
            total += size(by_unit(changes[units.reader], units).sum(axis=-1)).sum(axis=0)
    return [total / len(rows.rows) for total in totals]


def _norm(model: nn.Module, units: Units, *, power: int) -> np.ndarray:
    sizes = by_unit(np.abs(matrix(model, units.reader)) ** power, units).sum(axis=(0, 2))
    for maker in units.makers:
        rows = (np.abs(matrix(model, maker)) ** power).sum(axis=1)
        sizes = sizes + rows.reshape(units.parts, units.count, units.size).sum(axis=(0, 2))
    return sizes ** (1 / power)


def _activation(model: nn.Module, all_units: list[Units], rows: Calibration) -> list[np.ndarray]:
    squares = rows.mean_squares(model, [units.reader for units in all_units])
    found = []
    for units in all_units:
        columns = np.square(matrix(model, units.reader)).sum(axis=0)
        found.append(np.sqrt(by_unit(squares[units.reader].cpu().numpy() * columns, units).sum(axis=-1)))
    return found


def by_unit(inputs: np.ndarray, units: Units) -> np.ndarray:
    """The last axis, inputs of the reader, as `[..., count, size]`."""
    return inputs.reshape(*inputs.shape[:-1], units.count, units.size)


def matrix(model: nn.Module, name: str) -> np.ndarray:
    """A linear's weight `[outputs, inputs]` in float64."""
    from kdc.models.shapes import outputs_first

    module: Any = model.get_submodule(name)
    weight: np.ndarray = outputs_first(module, module.weight.detach()).double().cpu().numpy()
    return weight


def choose(
    importance: list[np.ndarray], ratio: float, *, uniform: bool, align: int, whole: Sequence[int] | None = None
) -> list[np.ndarray]:
    """The units of each layer to keep, by their numbers in order: all but the share `ratio` that matters least.

    `uniform` takes the share of every layer, else of all layers together; of units that matter alike the first stay.
    Layers keep the nearest multiple of `align` units, and never less than one multiple; those that have fewer units
    keep what is left of them, at least one. Layers that were cut before had `whole` units, of which `ratio` is a share.
    """
    whole = whole or [len(values) for values in importance]
    if uniform:
        wanted = [(1 - ratio) * size for size in whole]
    else:
        owners = np.concatenate([np.full(len(values), layer) for layer, values in enumerate(importance)])
        order = np.argsort(-np.concatenate(importance), kind="stable")
        stay = owners[order[: sum(whole) - math.floor(ratio * sum(whole))]]
        wanted = [float((stay == layer).sum()) for layer in range(len(importance))]
    kept = []
    for values, count in zip(importance, wanted, strict=True):
        step = align if len(values) >= align else 1
        number = max(step, min(len(values) // step, math.floor(count / step + 0.5)) * step)
        kept.append(np.sort(np.argsort(-values, kind="stable")[:number]))
    return kept


def cut(model: nn.Module, units: Units, kept: np.ndarray) -> None:
    """Leave the model these units only."""
    import torch

    from kdc.models.shapes import keep_inputs, keep_outputs

    inputs = (kept[:, None] * units.size + np.arange(units.size)).reshape(-1)
    every = units.count * units.size
    outputs = np.concatenate([part * every + inputs for part in range(units.parts)])
    for maker in units.makers:
        keep_outputs(model, maker, torch.from_numpy(outputs))
    keep_inputs(model, units.reader, torch.from_numpy(inputs))


def described(all_units: Mapping[str, tuple[int, int]], noun: str) -> list[str]:
    """What was cut of every layer, a line each."""
    return [f"{layer}: {before} -> {after} {noun}" for layer, (before, after) in all_units.items()]
