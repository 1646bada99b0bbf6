"""What is left of a layer takes over what was cut: its reader's weights are fitted to what it put out before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kdc.compress.units import Units, matrix

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration

Tune = Literal["none", "scales", "weights"]
RIDGE = 1e-4
"""Added to the diagonals of what is solved, as a share of their mean: calibration rows do not tell everything."""


def fitted(weight: np.ndarray, moment: np.ndarray, units: Units, kept: np.ndarray, how: Tune) -> np.ndarray:
    """The reader's weight `[outputs, inputs]` after a fit of its columns of the units `kept`; others stay.

    With the inputs' second moment M `[inputs, inputs]` over calibration tokens, both minimize the mean squared change
    of what the reader puts out. `scales`: one factor s for each unit, solving G_kk s = G_k1 with G_uv the sum of
    (M * W'W) over the inputs of u and v (Kwon et al. 2022, arXiv:2204.09656, section 4.3, from the dense model's
    activations). `weights`: every weight, W M_:k M_kk^-1 (He et al. 2017, arXiv:1707.06168, equation 1, solved for W).
    """
    inputs = (kept[:, None] * units.size + np.arange(units.size)).reshape(-1)
    tuned = weight.copy()
    if how == "weights":
        tuned[:, inputs] = np.linalg.solve(_ridged(moment[np.ix_(inputs, inputs)]), moment[inputs] @ weight.T).T
        return tuned
    shape = (units.count, units.size, units.count, units.size)
    together = (moment * (weight.T @ weight)).reshape(shape).sum(axis=(1, 3))
    factors = np.linalg.solve(_ridged(together[np.ix_(kept, kept)]), together[kept].sum(axis=1))
    tuned[:, inputs] *= np.repeat(factors, units.size)
    return tuned


def tune(model: nn.Module, every: list[Units], kept: list[np.ndarray], rows: Calibration | None, how: Tune) -> None:
    """Fit the readers of all units in place, before any are cut."""
    import torch

    from kdc.models.shapes import outputs_first

    if how == "none":
        return
    assert rows is not None
    moments = rows.moments(model, [units.reader for units in every])
    for units, stay in zip(every, kept, strict=True):
        reader: Any = model.get_submodule(units.reader)
        moment = moments[units.reader].cpu().numpy()
        weight = fitted(matrix(model, units.reader), moment, units, stay, how)
        with torch.no_grad():
            outputs_first(reader, reader.weight).copy_(torch.from_numpy(weight))


def _ridged(square: np.ndarray) -> np.ndarray:
    ridged: np.ndarray = square + RIDGE * square.diagonal().mean() * np.eye(len(square))
    return ridged
