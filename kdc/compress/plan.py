"""The precision plan: what quantization passes emit and a runtime realizes when it lowers the model. No torch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["fp32", "bf16", "int8"]


class ModulePrecision(BaseModel):
    """How one module computes. `weights_only` keeps the arithmetic in float (an embedding that is stored in int8)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Precision
    per_channel: bool = False
    reduce_range: bool = False
    weights_only: bool = False


class PrecisionPlan(BaseModel):
    """Dtype of everything not named (`default`), of the named modules, and why eligible ones were left out.

    `rewrites` name what is left out of the computation, because no answer depends on it. Module names are those of the
    model itself (`bert.encoder.layer.0.output.dense`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: Literal["fp32", "bf16"] = "fp32"
    modules: dict[str, ModulePrecision] = Field(default_factory=dict)
    excluded: dict[str, str] = Field(default_factory=dict)
    rewrites: tuple[Literal["first_token"], ...] = ()

    @property
    def precision(self) -> Precision:
        """The one word that tables show for this plan."""
        return "int8" if any(m.dtype == "int8" for m in self.modules.values()) else self.default
