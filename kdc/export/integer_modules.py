"""A precision plan as torch's own quantizing operations, which its compiler melts into integer kernels.

What a module reads is rounded and its weights are kept in integers; both are brought back to float for the product, a
pattern that the compiler knows (`torch/_inductor/fx_passes/quantization.py`). Formulas are those of
`kdc.compress.integers`.
"""

from __future__ import annotations

import copy
import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdc.compress.plan import ModulePrecision, PrecisionPlan, Range, with_zero
from kdc.errors import KdcError
from kdc.models.shapes import outputs_first

importlib.import_module("torch.ao.quantization.fx._decomposed")  # which registers the operations
OPERATIONS = torch.ops.quantized_decomposed
UNSIGNED = (0, 255, torch.uint8)
TINY = torch.finfo(torch.float32).tiny


def with_integers(module: nn.Module, plan: PrecisionPlan, prefix: str = "") -> nn.Module:
    """A copy of `module` whose planned parts (named behind `prefix`) round; KdcError for one that cannot here."""
    whole = copy.deepcopy(module)
    made: dict[nn.Module, nn.Module] = {}
    for name, precision in plan.modules.items():
        part = whole.get_submodule(f"{prefix}{name}")
        if part in made.values():
            continue  # one that was put in another's place: two names of a shared module
        if part not in made:
            made[part] = _integer(name, part, precision)
        whole.set_submodule(f"{prefix}{name}", made[part])
    return whole


class IntegerModule(nn.Module):
    """A linear or convolution in 8 bits; ranges that are not known are measured at each call."""

    factors: Tensor | None
    integers: Tensor
    scales: Tensor
    zeros: Tensor

    def __init__(self, part: Any, precision: ModulePrecision) -> None:
        super().__init__()
        self.reads, self.puts_out = precision.reads, precision.puts_out
        self.convolution = _settings(part) if hasattr(part, "kernel_size") else None
        weight = outputs_first(part, part.weight.detach()).float()
        # torch 2.13's compiled integer convolutions are wrong over a single channel; a second one of zeros mends it
        self.padded = self.convolution is not None and getattr(part, "in_channels", 0) == 1
        if self.padded:
            weight = torch.cat([weight, torch.zeros_like(weight)], dim=1)
        factors = torch.tensor(precision.smooth) if precision.smooth else None
        if factors is not None:
            weight = weight * factors
        sizes = weight.abs().flatten(1).amax(dim=1)
        largest = sizes if precision.per_channel else sizes.amax().expand_as(sizes)
        scales = (largest / (64 if precision.reduce_range else 127)).clamp(min=TINY)
        integers = (weight / scales.reshape(-1, *[1] * (weight.ndim - 1))).round().to(torch.int8)
        self.register_buffer("factors", factors)
        self.register_buffer("integers", integers.contiguous())
        self.register_buffer("scales", scales.contiguous())
        self.register_buffer("zeros", torch.zeros_like(scales, dtype=torch.int64))
        self.bias = part.bias

    @property
    def weight(self) -> Tensor:
        """`[outputs, inputs, ...]` in float; models look at its dtype too."""
        settings = (self.integers, self.scales, self.zeros, 0, -128, 127, torch.int8)
        weight: Tensor = OPERATIONS.dequantize_per_channel(*settings)
        return weight

    def forward(self, read: Tensor) -> Tensor:
        if self.padded:
            read = torch.cat([read, torch.zeros_like(read)], dim=1)
        if self.factors is not None:
            read = read / self.factors
        read, weight = _known(read, self.reads) if self.reads else _measured(read), self.weight
        if self.convolution is None:
            return functional.linear(read, weight, self.bias)
        convolve, settings = self.convolution
        made: Tensor = convolve(read, weight, self.bias, *settings)
        return _known(made, self.puts_out) if self.puts_out else made


class IntegerTable(nn.Module):
    """An embedding that is stored in 8 bits, from its smallest value to its largest."""

    integers: Tensor

    def __init__(self, part: nn.Embedding) -> None:
        super().__init__()
        table = part.weight.detach().float()
        self.scale, self.zero = _steps((float(table.min()), float(table.max())))
        integers = (table / self.scale).round().add(self.zero).clamp(0, 255).to(torch.uint8)
        self.register_buffer("integers", integers)

    @property
    def weight(self) -> Tensor:
        """`[entries, width]` in float, for models that read the table itself."""
        return self._float(self.integers)

    def forward(self, ids: Tensor) -> Tensor:
        return self._float(self.integers[ids])

    def _float(self, integers: Tensor) -> Tensor:
        return (integers.float() - self.zero) * self.scale


def _integer(name: str, part: nn.Module, precision: ModulePrecision) -> nn.Module:
    if isinstance(part, nn.Embedding):
        return IntegerTable(part)
    if isinstance(part, nn.LSTM):
        raise KdcError(
            f"runtime=inductor: {name} is an LSTM, which torch's compiler has not in int8",
            f"leave it out (compress.int8.exclude='[{name}]') or take runtime=onnxruntime",
        )
    if getattr(part, "padding_mode", "zeros") != "zeros":
        raise KdcError(f"runtime=inductor: {name} pads with other than zeros", "take runtime=onnxruntime")
    return IntegerModule(part, precision)


def _settings(part: Any) -> tuple[Any, tuple[Any, ...]]:
    convolve = functional.conv1d if len(part.kernel_size) == 1 else functional.conv2d
    return convolve, (part.stride, part.padding, part.dilation, part.groups)


def _steps(limits: Range) -> tuple[float, int]:
    """Scale and zero of 256 steps within these limits."""
    low, high = with_zero(limits)
    scale = max((high - low) / 255, TINY)
    return scale, round(-low / scale)


def _known(values: Tensor, limits: Range) -> Tensor:
    steps = _steps(limits)
    rounded = OPERATIONS.quantize_per_tensor.default(values, *steps, *UNSIGNED)
    back: Tensor = OPERATIONS.dequantize_per_tensor.default(rounded, *steps, *UNSIGNED)
    return back


def _measured(values: Tensor) -> Tensor:
    steps = OPERATIONS.choose_qparams.tensor(values, 0, 255, TINY, torch.uint8)
    rounded = OPERATIONS.quantize_per_tensor.tensor(values, *steps, *UNSIGNED)
    back: Tensor = OPERATIONS.dequantize_per_tensor.tensor(rounded, *steps, *UNSIGNED)
    return back
