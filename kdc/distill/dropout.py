"""Dropout that draws 16 random bits for an element where torch's draws a whole number.

On CPUs torch draws one element after the other, which is a tenth and more of a small student's training. Random bytes
come several times as fast, from the same generator, so that a resumed training draws what it would have drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

STEPS = 2**16


class BitDropout(nn.Dropout):
    """`nn.Dropout` with p rounded to a multiple of 2^-16, and what is kept scaled by what that comes to."""

    def forward(self, values: Tensor) -> Tensor:
        threshold = round(self.p * STEPS)
        if not self.training or threshold == 0 or values.is_cuda:
            return super().forward(values)
        dropped: Tensor = _Drop.apply(values, threshold)
        return dropped


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, threshold: int) -> Tensor:
        words = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.int16)[: values.numel()].view(values.shape) >= threshold - STEPS // 2
        context.save_for_backward(kept)
        context.scale = STEPS / (STEPS - threshold) if threshold < STEPS else 0.0
        return _masked(values, kept, context.scale)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _masked(gradients[0], context.saved_tensors[0], context.scale), None


def _masked(values: Tensor, kept: Tensor, scale: float) -> Tensor:
    return torch.where(kept, values * scale, 0.0)


@contextmanager
def bit_dropout(model: nn.Module) -> Iterator[None]:
    """Within the block, every `nn.Dropout` of the model is one that draws bits."""
    modules = [module for module in model.modules() if type(module) is nn.Dropout]
    for module in modules:
        module.__class__ = BitDropout
    try:
        yield
    finally:
        for module in modules:
            module.__class__ = nn.Dropout
