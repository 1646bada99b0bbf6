"""Dropout that is cheap on CPUs, and attention that has it.

torch draws one element after the other there, which is a tenth and more of a small student's training. Random words
come several times as fast from the same generator, so a resumed training still draws what it would have drawn. And
`scaled_dot_product_attention` has no fast kernel with dropout: it takes its slow path, in float32 and with checks for
rows that see nothing. The plain formula is faster for the lengths that students train on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

STEPS = 2**16
ATTENTION = "kdc_dropout"


class BitDropout(nn.Dropout):
    """`nn.Dropout` with p rounded to a multiple of 2^-16, and what is kept scaled by what that comes to."""

    def forward(self, values: Tensor) -> Tensor:
        return bit_dropped(values, self.p if self.training else 0.0)


def bit_dropped(values: Tensor, p: float) -> Tensor:
    """Each of `values` (any shape) set to 0 with probability p, and else scaled up; torch's own on a GPU."""
    threshold = round(p * STEPS)
    if threshold == 0 or values.is_cuda:
        return nn.functional.dropout(values, p)
    dropped: Tensor = _Drop.apply(values, threshold)
    return dropped


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, threshold: int) -> Tensor:
        words = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        draws = words.view(torch.int16)[: values.numel()].view(values.shape)
        # factors in the values' own type: one multiplication each way, where a mask would be a slow `where`
        factors = torch.empty(values.shape, dtype=values.dtype)
        torch.ge(draws, threshold - STEPS // 2, out=factors)
        factors.mul_(STEPS / (STEPS - threshold) if threshold < STEPS else 0.0)
        context.save_for_backward(factors)
        return values * factors

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * context.saved_tensors[0], None


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """softmax(query keyᵀ · scaling + mask) value with dropout (Vaswani et al. 2017, arXiv:1706.03762, equation 1).

    States are `[batch, heads, length, width]`, the mask is added; returns `[batch, length, heads, width]`. Without
    dropout, and for what the plain formula lacks (grouped keys, position bias, a mask to be made), it is torch's own.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    causal = more.get("is_causal")
    unmasked = attention_mask is None and (getattr(module, "is_causal", True) if causal is None else causal)
    if not dropout or unmasked or key.shape[1] != query.shape[1] or more.get("position_bias") is not None:
        sdpa = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return sdpa[0], None
    weights = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    weights = weights if attention_mask is None else weights + attention_mask
    probabilities = bit_dropped(weights.softmax(-1), dropout)  # [B, heads, L, L]
    return (probabilities.to(value.dtype) @ value).transpose(1, 2).contiguous(), None


@contextmanager
def bit_dropout(model: nn.Module) -> Iterator[None]:
    """Within the block, every `nn.Dropout` of the model draws bits, and so does `transformers`' fast attention."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, eager_mask

    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, eager_mask)
    dropouts = [module for module in model.modules() if type(module) is nn.Dropout]
    fast = [module for module in model.modules() if _attention(module) == "sdpa"]
    for dropout in dropouts:
        dropout.__class__ = BitDropout
    for module in fast:
        module.set_attn_implementation(ATTENTION)  # type: ignore[operator]
    try:
        yield
    finally:
        for dropout in dropouts:
            dropout.__class__ = nn.Dropout
        for module in fast:
            module.set_attn_implementation("sdpa")  # type: ignore[operator]


def _attention(module: nn.Module) -> str | None:
    """How a `transformers` model on the CPU computes attention."""
    if not hasattr(module, "set_attn_implementation") or any(weight.is_cuda for weight in module.parameters()):
        return None
    return getattr(module.config, "_attn_implementation", None)
