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
        pruned = [name for name, weight in matrices(model) if bool((weight == 0).any())]
        # weights are asked of their modules at every step: moving a model to a GPU may make them anew
        self.modules: list[Any] = [model.get_submodule(name) for name in pruned]
        self.masks = [module.weight.detach() != 0 for module in self.modules]

    def on_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.masks = [mask.to(module.weight.device) for module, mask in zip(self.modules, self.masks, strict=True)]
        for module, mask in zip(self.modules, self.masks, strict=True):
            module.weight.data.mul_(mask)
