"""Rounding to integers and back, as runtimes do it: real = scale * (q - zero) (Jacob et al. 2018, equation 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from kdc.compress.plan import ModulePrecision, Range, with_zero

UNSIGNED = 255
"""The largest of an activation's integers, which start at 0."""


def weights_rounded(weight: Tensor, precision: ModulePrecision) -> Tensor:
    """A weight `[outputs, inputs, ...]` as its integers say it, symmetric about zero."""
    if precision.group is not None:
        return _through(weight, _by_groups(weight.detach(), precision.group, 4 if precision.dtype == "int4" else 8))
    if precision.codebook is not None:
        values = torch.tensor(precision.codebook, dtype=weight.dtype, device=weight.device)
        return _through(weight, values[torch.bucketize(weight.detach().contiguous(), (values[:-1] + values[1:]) / 2)])
    dims = tuple(range(1, weight.ndim)) if precision.per_channel else tuple(range(weight.ndim))
    largest = weight.detach().abs().amax(dim=dims, keepdim=True)
    scale = (largest / (64 if precision.reduce_range else 127)).clamp(min=torch.finfo(weight.dtype).tiny)
    return _through(weight, (weight.detach() / scale).round() * scale)


def _by_groups(weight: Tensor, group: int, bits: int) -> Tensor:
    """Every `group` inputs of an output in steps of their largest value: that one is -2^(bits - 1) of them."""
    outputs, inputs = weight.shape
    half = 2 ** (bits - 1)
    padded = torch.nn.functional.pad(weight, (0, -inputs % group)).reshape(outputs, -1, group)
    largest = padded.gather(2, padded.abs().argmax(dim=2, keepdim=True))
    scale = largest / -half
    steps = torch.where(scale == 0, 0, padded / scale).round().clamp(-half, half - 1)
    return (steps * scale).reshape(outputs, -1)[:, :inputs]


def in_groups(read: Tensor, group: int) -> Tensor:
    """Activations `[..., inputs]` in 8 bits, symmetric about zero, every `group` inputs by their largest size."""
    padded = torch.nn.functional.pad(read.detach(), (0, -read.shape[-1] % group)).unflatten(-1, (-1, group))
    scale = (padded.abs().amax(dim=-1, keepdim=True) / 127).clamp(min=torch.finfo(read.dtype).tiny)
    rounded = ((padded / scale).round() * scale).flatten(-2)[..., : read.shape[-1]]
    return _through(read, rounded)


def measured_now(read: Tensor, of: Tensor | None = None) -> Tensor:
    """Values in 256 steps from the smallest to the largest of them, or `of` those that they are part of."""
    low, high = (read if of is None else of).detach().aminmax()
    return _between(read, low.clamp(max=0), high.clamp(min=0))


def fixed(read: Tensor, limits: Range) -> Tensor:
    """Activations in 256 steps within `limits`; what lies beyond is cut off, and lets no gradient through."""
    low, high = (torch.as_tensor(limit, dtype=read.dtype, device=read.device) for limit in with_zero(limits))
    return _between(read, low, high)


def _between(read: Tensor, low: Tensor, high: Tensor) -> Tensor:
    scale = ((high - low) / UNSIGNED).clamp(min=torch.finfo(read.dtype).tiny)
    zero = (-low / scale).round()
    steps = ((read.detach() / scale).round().add(zero).clamp(0, UNSIGNED) - zero) * scale
    return _through(read.clamp(low, high), steps)


def _through(exact: Tensor, rounded: Tensor) -> Tensor:
    """`rounded`, with the gradient of `exact`."""
    return exact + (rounded - exact).detach()
