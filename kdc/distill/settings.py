"""The YAML of `train` and `distill`: how any model is trained, and who learns from whom. No torch."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from kdc.distill.schedules import Share
from kdc.errors import did_you_mean
from kdc.models.spec import StudentConfig, TeacherConfig
from kdc.registry import Component

FROM_SCRATCH, FROM_WEIGHTS = 5e-4, 1e-4

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")


def _known_trackers(names: list[str]) -> list[str]:
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"no tracker is called '{name}'; {did_you_mean(name, TRACKERS)}")
    return names


class TrainConfig(Component):
    """Settings of the training loop. `precision: auto` autocasts to bf16 where CPU or GPU computes it in hardware."""

    name: str
    epochs: PositiveFloat = 3
    batch_size: PositiveInt = 32
    """Rows a step, over all processes and accumulated parts."""
    accumulate: PositiveInt = 1
    """Parts that a batch is computed in, one after the other, where memory is short."""
    learning_rate: PositiveFloat | Literal["auto"] = "auto"
    """`auto`: 1e-4 for a model that starts from trained weights, 5e-4 for one from scratch (at 1e-3 a BERT of three
    layers learned nothing of SST-2)."""
    weight_decay: NonNegativeFloat = 0.01
    warmup_ratio: float = Field(default=0.06, ge=0, lt=1)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    max_grad_norm: PositiveFloat = 1.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    compile: bool = False
    """Compile the model with torch.compile: minutes at the start, faster steps."""
    evaluations: PositiveInt | PositiveFloat = 1
    """Validations an epoch (0.5: one in two); the best one's weights are kept."""
    patience: PositiveInt | None = None
    """Stop after so many validations without a better one."""
    checkpoint_seconds: PositiveFloat = 60
    """How much work a killed run can lose at most."""
    trackers: Annotated[list[str], AfterValidator(_known_trackers)] = Field(default_factory=list)
    """What a training logs goes to these too, into the run's folder `tracking`: tensorboard, wandb, mlflow, trackio."""

    def at_rate_for(self, *, from_scratch: bool) -> "TrainConfig":
        """These settings with the learning rate that suits where the model starts."""
        if self.learning_rate != "auto":
            return self
        return self.model_copy(update={"learning_rate": FROM_SCRATCH if from_scratch else FROM_WEIGHTS})


class DistillConfig(Component):
    """Who learns from whom, and how a teacher's signals come to the student.

    Further `teachers` speak together with `teacher`; `assistants` stand between it and the student, in order; `peers`
    and the student learn from one another and from no teacher; with more than one of `generations` the student is
    trained again with itself as the teacher.
    """

    teachers: dict[str, TeacherConfig] = Field(default_factory=dict)
    combine: Literal["mean", "confidence", "agreement"] = "mean"
    """How several teachers are weighed, row by row: as `teacher_weights` say, times each one's confidence, or times its
    agreement with the others."""
    teacher_weights: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    assistants: dict[str, StudentConfig] = Field(default_factory=dict)
    peers: dict[str, StudentConfig] = Field(default_factory=dict)
    generations: PositiveInt = 1
    signals: Literal["auto", "cached", "online"] = "auto"
    """`auto`: cached where the estimate fits into `cache_gb`; logits alone always are."""
    cache_gb: PositiveFloat = 4.0
    top_k: PositiveInt | None = None
    """Of logits over more classes than this, cache the largest only."""
    audit: list[Share] = Field(default_factory=lambda: [0.0, 0.5])
    """Moments of the training at which every term's share of loss and gradient is looked at."""
