"""The YAML of `report`: what is looked at beyond the averages, and what of users' rows may be shown. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from kdc.registry import Component

Attribution = Literal["none", "input_x_gradient", "integrated_gradients"]
Perturbation = Literal["typos", "case", "noise"]
MOST_FLIPS = 20
"""More of them than a page shows would only be attributed and recorded."""


class ReportConfig(Component):
    """`examples=false` keeps texts and pictures of the data out of every output; row numbers and ids stay.

    `slices` are columns of the data, by their own names, whose values cut the test rows into groups. `attributions`
    say for each flipped example which parts of the input spoke for each answer. `robustness` measures every variant
    again on rows that were perturbed: `typos` and `case` in texts, Gaussian `noise` on pictures.
    """

    examples: bool = True
    flips: int = Field(default=10, ge=0, le=MOST_FLIPS)
    """Flipped examples to tell of, for each comparison."""
    slices: list[str] = Field(default=[])
    attributions: Attribution = "none"
    robustness: list[Perturbation] = Field(default=[])

    @model_validator(mode="after")
    def _attributions_show_examples(self) -> ReportConfig:
        if self.attributions != "none" and not self.examples:
            raise ValueError("attributions show pieces of the rows, which examples=false keeps out; drop one of them")
        return self
