"""What a compression pass is, and the family's registry."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import PositiveFloat

from kdc.compress.plan import Precision, PrecisionPlan
from kdc.registry import Component, Registry

if TYPE_CHECKING:
    from torch import nn

    from kdc.compress.calibration import Calibration
    from kdc.tasks.base import Encoder

Family = Literal["merge", "prune", "factorize", "share"]
"""Kinds of passes that change weights, in the order that is natural; quantizers come after all."""
ALL_ROWS = 2**62
"""To be seen: whatever training rows there are."""


class Recovery(Component):
    """Training with the teacher's answers after a pass, to win back quality: zeros and shapes stay as they are.

    A `learning_rate` of null is that of `train`.
    """

    epochs: PositiveFloat = 1
    learning_rate: PositiveFloat | None = None


@dataclass(frozen=True)
class Done:
    """The model and plan after a pass; `lines` say what it did, module by module or layer by layer."""

    model: nn.Module
    plan: PrecisionPlan
    lines: list[str] = field(default_factory=list)
    encoder: Encoder | None = None
    """What the model reads with from now on, where that is another."""


class Pass(Component):
    """One compression step: it edits the precision plan that a runtime realizes, or (`WeightPass`) changes the module.

    `modality` is `text` or `image` where it is for models that read these alone.
    """

    version: ClassVar[int] = 5
    """Counts up where the pass comes to compute something else, so that no stage of before is taken for one of now."""
    family: ClassVar[Family | None] = None
    """Its place in the natural order; None where any is as good."""
    changes_weights: ClassVar[bool] = False
    modality: ClassVar[str | None] = None
    packages: ClassVar[tuple[str, ...]] = ()
    """What it needs beyond kdc's own requirements."""
    splits_linears: ClassVar[bool] = False
    """Whether no pass after it can cut outputs of linears: it makes two modules of one, or one of several."""
    cuts_units: ClassVar[bool] = False
    """Whether it takes outputs of linears away."""
    edits_plan: ClassVar[bool] = False
    """Whether it changes what a quantizer before it planned."""
    judges: ClassVar[bool] = False
    """Whether it looks at the validation split."""
    name: str

    def resolved(self) -> Self:
        """This pass with every choice that it leaves to the machine made, so that a stage's key holds it."""
        return self

    def remarks(self) -> list[str]:
        """What to say of those choices, and of what the machine makes of the pass; beside its stage, which another
        machine may have computed."""
        return []

    def in_rounds(self) -> Sequence[Self]:
        """The passes that this one is taken in, one after the other."""
        return [self]

    def cannot_follow(self, before: Pass, name: str) -> str:
        """Why it cannot come after the pass `before`, which the run calls `name`; empty where it can."""
        if self.cuts_units and before.splits_linears:
            return f"cuts outputs of linears, which {name} before it has split"
        if self.changes_weights and before.precision is not None:
            return f"changes weights, which {name} before it has quantized"
        return ""

    @property
    def precision(self) -> Precision | None:
        """What it asks of a runtime, so that a missing cell of precision x runtime is refused early."""
        return None

    @property
    def recovery(self) -> Recovery | None:
        """The training after it, if any."""
        return None

    @property
    def rows_to_see(self) -> int:
        """How many training rows it has to look at."""
        return 0

    @property
    def checkpoints(self) -> Sequence[str]:
        """Other models that it reads, as `teacher.path` names them."""
        return ()

    def targets(self, model: nn.Module) -> Any:
        """What of the model it would change, told from names and shapes alone; KdcError where there is nothing.

        Asked of a model without weights before anything is trained.
        """
        return None

    def outline(self, model: nn.Module) -> None:
        """Give a model without weights the modules that it has after this pass, where names or identities change."""

    @abstractmethod
    def apply(self, model: nn.Module, plan: PrecisionPlan, rows: Calibration | None = None) -> Done:
        """The model and plan after this step. `model` may be changed in place; `rows` where it asked for some."""


class Recovers(Pass):
    """A pass after which a model can learn again: `recover` says how long."""

    recover: Recovery | None = None

    @property
    def recovery(self) -> Recovery | None:
        return self.recover

    def without_recovery(self) -> Self:
        """The pass alone: its recovery is a step of its own."""
        return self.model_copy(update={"recover": None})


class WeightPass(Recovers):
    """A pass that changes the module."""

    changes_weights: ClassVar[bool] = True


BUILTIN = (
    "prune", "prune_ffn", "prune_heads", "prune_width", "prune_layers", "prune_channels", "mask_search", "svd", "share",
    "vocabulary", "merge", "first_token",
    "fold_batch_norm", "int8", "int8_static", "int8_weights", "int4_weights", "cluster", "bf16", "fp16",
    "mixed_precision", "accuracy_control",
)  # fmt: skip
PASSES: Registry[Pass] = Registry("compression pass", [f"kdc.compress.{name}" for name in BUILTIN])
