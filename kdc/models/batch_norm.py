"""Batch-norms as part of the convolutions before them: in evaluation both are one linear map."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def normalized(model: nn.Module) -> dict[str, str]:
    """Convolutions with a batch-norm behind them, by their names and its name.

    Told by their order in the module that holds both, which is the order of computation in every family that kdc
    knows; an export that a wrong guess had changed would not pass its comparison with the model.
    """
    found = {}
    for place, parent in model.named_modules():
        for (first, convolution), (second, norm) in pairwise(parent.named_children()):
            if _fit(convolution, norm):
                prefix = f"{place}." if place else ""
                found[f"{prefix}{first}"] = f"{prefix}{second}"
    return found


def _fit(convolution: nn.Module, norm: nn.Module) -> bool:
    return (
        isinstance(convolution, CONVOLUTIONS)
        and isinstance(norm, NORMS)
        and norm.running_mean is not None
        and norm.num_features == convolution.out_channels
    )


@contextmanager
def batch_norms_folded(model: nn.Module) -> Iterator[None]:
    """Within the block the convolutions do the work of their batch-norms, as these stand in evaluation."""
    before: list[tuple[Any, Any, Any]] = []
    for convolution_name, norm_name in normalized(model).items():
        convolution: Any = model.get_submodule(convolution_name)
        norm: Any = model.get_submodule(norm_name)
        before.append((convolution, dict(convolution._parameters), (norm_name, norm)))
        fused: Any = fuse_conv_bn_eval(convolution.eval(), norm.eval())
        convolution._parameters.update(weight=fused.weight, bias=fused.bias)
        model.set_submodule(norm_name, nn.Identity())
    try:
        yield
    finally:
        for convolution, parameters, (norm_name, norm) in before:
            convolution._parameters.update(parameters)
            model.set_submodule(norm_name, norm)
