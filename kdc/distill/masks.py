"""Pruned weights that stay pruned while what is left of the model goes on learning."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState

from kdc.models.taps import matrices


class KeepZeros(TrainerCallback):
    """Every weight of a linear or convolution that is zero at the start is zero after every step.

    A trained weight is not zero by chance, so the zeros are the mask: what was pruned, in whichever way.
    """

    def __init__(self, model: nn.Module) -> None:
        self.masks = [(weight, weight.detach() != 0) for _, weight in matrices(model) if bool((weight == 0).any())]

    def on_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        for weight, mask in self.masks:
            weight.data.mul_(mask.to(weight.device))
