"""A model that computes in float what it will in integers: every planned module rounds what it reads and its weights.

Rounding lets gradients through as if it were not there (Bengio et al. 2013, arXiv:1308.3432, section 4), but where a
range measured beforehand cuts values off, so a model can learn under it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdc.compress.integers import fixed, in_groups, measured_now, weights_rounded
from kdc.compress.plan import ModulePrecision, PrecisionPlan
from kdc.models.batch_norm import normalized
from kdc.models.shapes import outputs_first


@contextmanager
def simulated(model: nn.Module, plan: PrecisionPlan) -> Iterator[None]:
    """Within the block the planned modules of `model` compute as the plan says."""
    folded = normalized(model) if "fold_batch_norm" in plan.rewrites else {}
    patched: list[nn.Module] = []
    try:
        for name, precision in plan.modules.items():
            module = model.get_submodule(name)
            if "forward" in vars(module):
                continue  # a shared module, under another of its names
            norm = model.get_submodule(folded[name]) if name in folded else None
            module.forward = _computing(module, precision, norm)
            patched.append(module)
            if norm is not None and precision.puts_out is not None:
                norm.forward = _putting_out(norm, precision)
                patched.append(norm)
        yield
    finally:
        for module in patched:
            del module.forward


@torch.no_grad()
def weight_errors(model: nn.Module, plan: PrecisionPlan) -> dict[str, float]:
    """How far rounding moves the weights of each planned module, as they are stored: its norm over theirs."""
    folded = normalized(model) if "fold_batch_norm" in plan.rewrites else {}
    found = {}
    for name, precision in plan.modules.items():
        module: Any = model.get_submodule(name)
        if isinstance(module, nn.Embedding):
            pairs = [(module.weight, measured_now(module.weight))]
        elif isinstance(module, nn.LSTM):
            pairs = [(one, weights_rounded(one, precision)) for one in module.parameters() if one.ndim == 2]
        else:
            weight = outputs_first(module, module.weight)
            if precision.smooth is not None:
                weight = weight * torch.tensor(precision.smooth, device=weight.device)
            if name in folded:
                weight = weight * _factor(model.get_submodule(folded[name]), weight)
            pairs = [(weight, weights_rounded(weight, precision))]
        moved = sum(float((rounded - exact).square().sum()) for exact, rounded in pairs)
        size = sum(float(exact.square().sum()) for exact, _ in pairs)
        found[name] = (moved / size) ** 0.5 if size else 0.0
    return found


def _computing(module: Any, precision: ModulePrecision, norm: Any) -> Callable[..., Any]:
    """The forward of a module that rounds."""
    kind = type(module).__name__
    if kind == "LSTM":
        return _lstm(module, precision)
    if kind == "Embedding":
        return _embedding(module)

    factors = torch.tensor(precision.smooth, device=module.weight.device) if precision.smooth else None

    def forward(read: Tensor) -> Tensor:
        weight = outputs_first(module, module.weight)
        if factors is not None:
            read, weight = read / factors.to(read.device), weight * factors.to(weight.device)
        if norm is None:
            weight = weights_rounded(weight, precision)
        else:  # what is stored is the weight with its batch-norm's factor
            factor = _factor(norm, weight).detach()
            factor = factor.where(factor != 0, 1)  # nothing of such a channel is left, however it is rounded
            weight = weights_rounded(weight * factor, precision) / factor
        if precision.group is not None:
            read = in_groups(read, precision.group)
        elif not precision.weights_only:
            read = fixed(read, precision.reads) if precision.reads else measured_now(read)
        if hasattr(module, "kernel_size"):
            made: Tensor = module._conv_forward(read, weight, module.bias)
            return fixed(made, precision.puts_out) if precision.puts_out and norm is None else made
        return functional.linear(read, weight, module.bias)

    return forward


def _factor(norm: Any, weight: Tensor) -> Tensor:
    """What a batch-norm multiplies each output by, to go with a weight `[outputs, inputs, ...]`."""
    factor: Tensor = norm.weight / (norm.running_var + norm.eps).sqrt()
    return factor.reshape(-1, *[1] * (weight.ndim - 1))


def _putting_out(norm: Any, precision: ModulePrecision) -> Callable[[Tensor], Tensor]:
    own = norm.forward
    assert precision.puts_out is not None
    puts_out = precision.puts_out
    return lambda read: fixed(own(read), puts_out)


def _embedding(module: Any) -> Callable[[Tensor], Tensor]:
    """The rows that are looked up, in steps of the whole table."""
    own = module.forward
    return lambda read: measured_now(own(read), of=module.weight)


def _lstm(module: Any, precision: ModulePrecision) -> Callable[..., Any]:
    """Its matrices in integers and what it reads; its states go from step to step in float."""
    own = module.forward

    def forward(read: Any, *states: Any) -> Any:
        read = measured_now(read) if isinstance(read, Tensor) else read._replace(data=measured_now(read.data))
        kept = module._flat_weights
        module._flat_weights = [weights_rounded(one, precision) if one.ndim == 2 else one for one in kept]
        try:
            return own(read, *states)
        finally:
            module._flat_weights = kept

    return forward
