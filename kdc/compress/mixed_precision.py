"""mixed_precision: the modules that rounding hurts most compute more finely."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveInt

from kdc.compress.base import PASSES, Done, Pass
from kdc.compress.gradual import Ratio
from kdc.compress.plan import PrecisionPlan

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration


@PASSES.register("mixed_precision")
class MixedPrecision(Pass):
    """Takes planned modules one step up, from 4 bits to 8 and from 8 to float, up to a share `ratio` of all planned
    weights: those first where a weight gains most.

    The gain is what rounding the module alone changes on `calibration_rows` of train: bits by sensitivity, as Dong et
    al. 2019 (arXiv:1905.03696) have it, told from outputs in the place of curvatures.
    """

    edits_plan: ClassVar[bool] = True
    name: Literal["mixed_precision"]
    ratio: Ratio = 0.1
    calibration_rows: PositiveInt = 256

    @property
    def rows_to_see(self) -> int:
        return self.calibration_rows

    def apply(self, model: nn.Module, plan: PrecisionPlan, rows: Calibration | None = None) -> Done:
        from kdc.compress.sensitivity import sensitivities

        assert rows is not None
        found = sensitivities(model, plan, rows)
        sizes = {names: sum(p.numel() for p in model.get_submodule(names[0]).parameters()) for names in found}
        left, lines = self.ratio * sum(sizes.values()), []
        for names in sorted(found, key=lambda names: -found[names] / sizes[names]):
            if sizes[names] > left:
                continue
            left -= sizes[names]
            finer = "8 bits" if plan.modules[names[0]].dtype == "int4" else "float"
            lines.append(f"{names[0]}: in {finer}; rounded, it changes outputs by {found[names]:.2g} of their variance")
            plan = _finer(plan, names)
        return Done(model, plan, lines or [f"no module is as small as {self.ratio:.0%} of the planned weights"])


def _finer(plan: PrecisionPlan, names: tuple[str, ...]) -> PrecisionPlan:
    if plan.modules[names[0]].dtype != "int4":
        return plan.without(names, "mixed_precision: among the most sensitive")
    better = {name: plan.modules[name].model_copy(update={"dtype": "int8"}) for name in names}
    return plan.model_copy(update={"modules": {**plan.modules, **better}})
