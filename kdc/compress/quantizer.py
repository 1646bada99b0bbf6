"""What passes that quantize have in common: which modules, how fine the weights, and training through the rounding."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveInt

from kdc.compress.base import Done, Recovers
from kdc.compress.plan import ModulePrecision, Precision, PrecisionPlan
from kdc.compress.scope import chosen
from kdc.errors import KdcError
from kdc.machine import has_int8_dot

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration

LINEARS = ("Linear", "Conv1D")
CONVOLUTIONS = ("Conv1d", "Conv2d")
KINDS: dict[Precision, tuple[str, ...]] = {
    "int8": (*LINEARS, "LSTM"),
    "int8_static": (*LINEARS, *CONVOLUTIONS),
    "int8_weights": LINEARS,
    "int4_weights": LINEARS,
    "codebook": (*LINEARS, *CONVOLUTIONS),
}
"""What is quantized by each precision, by the name of its type. An LSTM's gates stay in float."""

STORED = ModulePrecision(dtype="int8", weights_only=True)
"""How embeddings are kept."""


class Quantizer(Recovers):
    """Puts modules into the precision plan. `include` and `exclude` are shell patterns of their names.

    With `recover` the model goes on learning from the teachers while it computes as it will when quantized, rounding
    seen through by straight-through gradients: quantization-aware training (Jacob et al. 2018, arXiv:1712.05877,
    section 3).
    """

    embeddings: bool = True
    """Store embeddings in int8 too."""
    include: list[str] = Field(default_factory=list)
    exclude: list[str] = Field(default_factory=list)

    def apply(self, model: nn.Module, plan: PrecisionPlan, rows: Calibration | None = None) -> Done:
        from kdc.compress.simulate import weight_errors
        from kdc.models.batch_norm import normalized
        from kdc.models.rewrites import rewritten

        names, left = self.targets(model)
        kinds = {name: type(model.get_submodule(name)).__name__ for name in names}
        if any(kind in CONVOLUTIONS for kind in kinds.values()) and normalized(model):
            plan = plan.rewritten("fold_batch_norm")  # what is stored has the batch-norm's factor in it
        computing = [name for name in names if kinds[name] != "Embedding"]
        stored = {name: STORED for name in names if kinds[name] == "Embedding"}
        with rewritten(model, plan.rewrites):
            modules = {**plan.modules, **self.precisions(model, computing, rows), **stored}
        left = {**dict.fromkeys(names, "no row that was looked at reaches it"), **left}
        excluded = {name: reason for name, reason in {**plan.excluded, **left}.items() if name not in modules}
        planned = plan.model_copy(update={"modules": modules, "excluded": excluded})
        own = planned.model_copy(update={"modules": {name: modules[name] for name in names if name in modules}})
        later = " before they recover" if self.recover else ""
        errors = weight_errors(model, own).items()
        layers = [f"{name}: {modules[name]}, weights off by {error:.2%}{later}" for name, error in errors]
        return Done(model, planned, layers)

    def targets(self, model: nn.Module) -> tuple[list[str], Mapping[str, str]]:
        kinds = (*KINDS[self.precision], *(["Embedding"] if self.embeddings else []))
        every = model.named_modules(remove_duplicate=False)  # shared layers have nodes of their own
        eligible = {name: module for name, module in every if type(module).__name__ in kinds}
        names, left = chosen(self.name, eligible, self.include, self.exclude)
        modules = {eligible[name]: name for name in names}
        if apart := next((name for name in left if eligible[name] in modules), None):
            raise KdcError(
                f"compress.{self.name}: {apart} and {modules[eligible[apart]]} share their weights, so both are left "
                "out or none",
                "name both in include or exclude",
            )
        return names, left

    @property
    @abstractmethod
    def precision(self) -> Precision:
        """What it plans."""

    @abstractmethod
    def precisions(self, model: nn.Module, names: list[str], rows: Calibration | None) -> dict[str, ModulePrecision]:
        """How each of these modules computes; `model` is as the plan's rewrites have it."""


class EightBits(Quantizer):
    """Both factors of every product in int8.

    Without a dot-product instruction (VNNI) pairs of products saturate in 16 bits: `reduce_range` keeps weights to 7
    bits there (`null`: decide by this machine's CPU).
    """

    per_channel: bool = True
    reduce_range: bool | None = None
    smooth: Annotated[float, Field(ge=0, le=1)] | None = None
    """How much of what is large in few channels of activations goes over to weights (SmoothQuant's alpha)."""
    calibration_rows: PositiveInt = 256
    """Training rows that ranges and smoothing look at."""

    @property
    def rows_to_see(self) -> int:
        return 0 if self.smooth is None else self.calibration_rows

    def resolved(self) -> Self:
        return self if self.reduce_range is not None else self.model_copy(update={"reduce_range": not has_int8_dot()})

    def remarks(self) -> list[str]:
        if not self.resolved().reduce_range:
            return []
        why = "it was asked for" if self.reduce_range else "a CPU without an int8 dot product would saturate sums of 8"
        return [f"weights in 7 bits (reduce_range): {why}"]

    def precisions(self, model: nn.Module, names: list[str], rows: Calibration | None) -> dict[str, ModulePrecision]:
        from kdc.compress.smoothing import smoothed, smoothing_factors

        first = {model.get_submodule(name): name for name in reversed(names)}  # a shared module by its first name
        linears = [name for module, name in first.items() if type(module).__name__ in LINEARS]
        factors = {}
        if self.smooth is not None and linears:
            assert rows is not None
            factors = smoothing_factors(model, linears, rows, self.smooth)
        with smoothed(model, factors):
            planned = self.computing(model, names, rows)
        for name, own in planned.items():
            if (found := factors.get(first[model.get_submodule(name)])) is not None:
                planned[name] = own.model_copy(update={"smooth": tuple(found.tolist())})
        return planned

    @abstractmethod
    def computing(self, model: nn.Module, names: list[str], rows: Calibration | None) -> dict[str, ModulePrecision]:
        """How each of these modules computes, smoothing apart."""

    def linear(self) -> ModulePrecision:
        reduce_range = bool(self.resolved().reduce_range)
        return ModulePrecision(dtype="int8", per_channel=self.per_channel, reduce_range=reduce_range)


class InGroups(Quantizer):
    """Weights alone in few bits: every `group` inputs of an output share a scale (symmetric, rounded to nearest).

    Activations are rounded to 8 bits in groups of as many while it serves, which changes little.
    """

    dtype: ClassVar[Literal["int8", "int4"]]
    group: Literal[16, 32, 64, 128, 256] = 32

    def precisions(self, model: nn.Module, names: list[str], rows: Calibration | None) -> dict[str, ModulePrecision]:
        return dict.fromkeys(names, ModulePrecision(dtype=self.dtype, weights_only=True, group=self.group))
