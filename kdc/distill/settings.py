"""The YAML of `train`: how any model is trained, teacher and student alike. No torch."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from kdc.registry import Component

FROM_SCRATCH, FROM_WEIGHTS = 1e-3, 1e-4


class TrainConfig(Component):
    """Settings of the training loop. `precision: auto` autocasts to bf16 where CPU or GPU computes it in hardware."""

    name: str
    epochs: PositiveFloat = 3
    batch_size: PositiveInt = 32
    learning_rate: PositiveFloat | Literal["auto"] = "auto"
    """`auto`: 1e-4 for a model that starts from trained weights, 1e-3 for one from scratch."""
    weight_decay: NonNegativeFloat = 0.01
    warmup_ratio: float = Field(default=0.06, ge=0, lt=1)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    max_grad_norm: PositiveFloat = 1.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    evaluations: PositiveInt = 1
    """Validations an epoch; the best one's weights are kept."""
    checkpoint_seconds: PositiveFloat = 60
    """How much work a killed run can lose at most."""

    def at_rate_for(self, *, from_scratch: bool) -> "TrainConfig":
        """These settings with the learning rate that suits where the model starts."""
        if self.learning_rate != "auto":
            return self
        return self.model_copy(update={"learning_rate": FROM_SCRATCH if from_scratch else FROM_WEIGHTS})
