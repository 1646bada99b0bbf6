"""The precision plan: what quantization passes emit and a runtime realizes when it lowers the model. No torch."""

from collections.abc import Iterable
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["fp32", "bf16", "fp16", "int8", "int8_static", "int8_weights", "int4_weights", "codebook"]
"""What a variant is in: floats; integers with ranges measured at run time, or beforehand; weights alone in integers, or
as numbers of shared values."""
Rewrite = Literal["first_token", "fold_batch_norm"]
Range = tuple[float, float]


def with_zero(limits: Range) -> Range:
    """The range with zero in it, which has to be one of the steps: padding is zero."""
    return min(limits[0], 0.0), max(limits[1], 0.0)


class ModulePrecision(BaseModel):
    """How one module computes.

    `weights_only` keeps the arithmetic in float (an embedding that is stored in int8). With a `group`, so many inputs
    share a scale, and what is read is rounded to 8 bits in such groups; with a `codebook` weights are the nearest of
    its values. `reads` and `puts_out` are the ranges of its inputs and outputs where they were measured beforehand;
    else those of the inputs are measured at every call. With factors to `smooth`, a linear reads x / s and has weights
    W * s.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Literal["int8", "int4", "codebook"]
    per_channel: bool = False
    reduce_range: bool = False
    weights_only: bool = False
    group: int | None = None
    codebook: tuple[float, ...] | None = None
    smooth: tuple[float, ...] | None = None
    reads: Range | None = None
    puts_out: Range | None = None

    def __str__(self) -> str:
        if self.codebook is not None:
            return f"{len(self.codebook)} values"
        if self.group is not None:
            return f"{self.dtype} in groups of {self.group}"
        said = f"{'7 bits of ' if self.reduce_range else ''}{self.dtype}{' per channel' if self.per_channel else ''}"
        if self.weights_only:
            return f"stored in {said}"
        if self.smooth is not None:
            said += ", smoothed"
        if self.reads is not None:
            low, high = with_zero(self.reads)
            said += f", reads {low:.3g} to {high:.3g}"
        return said


class PrecisionPlan(BaseModel):
    """Dtype of everything not named (`default`), of the named modules, and why eligible ones were left out.

    `rewrites` name what is computed otherwise, with the same answers. Module names are those of the model itself
    (`bert.encoder.layer.0.output.dense`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: Literal["fp32", "bf16", "fp16"] = "fp32"
    modules: dict[str, ModulePrecision] = Field(default_factory=dict)
    excluded: dict[str, str] = Field(default_factory=dict)
    rewrites: tuple[Rewrite, ...] = ()

    @property
    def precision(self) -> Precision:
        """The one word that tables show for this plan."""
        kinds = self.modules.values()
        if any(kind.codebook for kind in kinds):
            return "codebook"
        if any(kind.dtype == "int4" for kind in kinds):
            return "int4_weights"
        if any(kind.reads for kind in kinds):
            return "int8_static"
        if any(not kind.weights_only for kind in kinds):
            return "int8"
        return "int8_weights" if kinds else self.default

    def without(self, names: Iterable[str], reason: str) -> Self:
        """The plan with these modules in float."""
        gone = dict.fromkeys(names, reason)
        kept = {name: own for name, own in self.modules.items() if name not in gone}
        return self.model_copy(update={"modules": kept, "excluded": {**self.excluded, **gone}})

    def rewritten(self, rewrite: Rewrite) -> Self:
        """The plan with one more way to compute the same."""
        return self.model_copy(update={"rewrites": tuple(dict.fromkeys((*self.rewrites, rewrite)))})
