"""What rounding a module by itself changes of what a model puts out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kdc.compress.plan import PrecisionPlan
from kdc.compress.simulate import simulated
from kdc.models.rewrites import rewritten

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration
    from kdc.export.base import Arrays


def sensitivities(model: nn.Module, plan: PrecisionPlan, rows: Calibration) -> dict[tuple[str, ...], float]:
    """Of every planned module, by all its names, the mean squared change of the outputs when it alone is rounded, over
    their variance. The most sensitive first.
    """
    exact = rows.outputs(model)
    names: dict[nn.Module, list[str]] = {}
    for name in plan.modules:
        names.setdefault(model.get_submodule(name), []).append(name)
    found = {}
    for own in map(tuple, names.values()):
        alone = {name: plan.modules[name] for name in own}
        with rewritten(model, plan.rewrites), simulated(model, plan.model_copy(update={"modules": alone})):
            found[own] = _change(exact, rows.outputs(model))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _change(exact: Arrays, rounded: Arrays) -> float:
    floats = [name for name, values in exact.items() if values.dtype.kind == "f"]
    changes = [np.square(rounded[name] - exact[name]).mean() / (exact[name].var() or 1.0) for name in floats]
    return float(np.mean(changes))
