"""accuracy_control: the most sensitive modules go back to float until the model is as good as it has to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt

from kdc.compress.base import PASSES, Done, Pass
from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration


@PASSES.register("accuracy_control")
class AccuracyControl(Pass):
    """Reverts modules of the plan, one after the other, until the metric drops by at most `max_drop` on validation.

    In the order of what rounding each of them alone changes on `calibration_rows` of train (as NNCF's quantization
    with accuracy control does). Rounding is simulated; nothing of the test split is looked at.
    """

    edits_plan: ClassVar[bool] = True
    judges: ClassVar[bool] = True
    name: Literal["accuracy_control"]
    max_drop: PositiveFloat = 0.005
    """In units of the metric: 0.005 of an accuracy is half a point."""
    calibration_rows: PositiveInt = 256

    @property
    def rows_to_see(self) -> int:
        return self.calibration_rows

    def apply(self, model: nn.Module, plan: PrecisionPlan, rows: Calibration | None = None) -> Done:
        from kdc.compress.sensitivity import sensitivities

        assert rows is not None
        exact = rows.score(model)
        drop = self._drop(model, plan, exact, rows)
        planned = self._scored(exact, drop, rows)
        lines = [f"{rows.metric} in float {exact:.4f}, as planned {planned:.4f} on validation"]
        for names in sensitivities(model, plan, rows) if drop > self.max_drop else ():
            plan = plan.without(names, f"accuracy_control: cost more than {self.max_drop:g} of {rows.metric}")
            drop = self._drop(model, plan, exact, rows)
            lines.append(f"{names[0]}: back in float, {rows.metric} {self._scored(exact, drop, rows):.4f}")
            if drop <= self.max_drop:
                break
        if plan.precision == plan.default:
            raise KdcError(
                f"compress.accuracy_control: {rows.metric} drops by over {self.max_drop:g} however few are rounded",
                "raise max_drop, train with the quantizer's recover, or leave the quantizer out",
                exit_code=1,
            )
        return Done(model, plan, lines)

    @staticmethod
    def _scored(exact: float, drop: float, rows: Calibration) -> float:
        return exact - drop if rows.higher_is_better else exact + drop

    def _drop(self, model: nn.Module, plan: PrecisionPlan, exact: float, rows: Calibration) -> float:
        from kdc.compress.simulate import simulated
        from kdc.models.rewrites import rewritten

        with rewritten(model, plan.rewrites), simulated(model, plan):
            change = exact - rows.score(model)
        return change if rows.higher_is_better else -change
