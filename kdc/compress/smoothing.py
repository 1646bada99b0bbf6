"""Activations made easier to round: what is large in a few of their channels moves into the weights that read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdc.compress.calibration import Calibration


def smoothing_factors(model: nn.Module, names: list[str], rows: Calibration, alpha: float) -> dict[str, Tensor]:
    """A factor for each input of the named linears: max |x_j|^alpha / max |W_:j|^(1 - alpha) (Xiao et al. 2023,
    arXiv:2211.10438, equation 4).

    A linear then reads x / s and its weights are W * s. Linears that read the same have the same factors, so that their
    input is divided once.
    """
    import torch

    from kdc.compress.wiring import reading_alike
    from kdc.models.shapes import outputs_first

    largest: dict[str, Tensor] = {}
    for batch in rows.inputs_of(model, names):
        for name, states in batch.items():
            own = states.abs().amax(dim=0)
            largest[name] = torch.maximum(largest[name], own) if name in largest else own
    found: dict[str, Tensor] = {}
    for together in reading_alike(model, names, rows):
        matrices = []
        for name in together:
            module: Any = model.get_submodule(name)
            matrices.append(outputs_first(module, module.weight.detach()).abs().amax(dim=0))
        weights = torch.stack(matrices).amax(dim=0)
        least = 1e-5
        factors = largest[together[0]].clamp(min=least).pow(alpha) / weights.clamp(min=least).pow(1 - alpha)
        found |= dict.fromkeys(together, factors.clamp(min=least))
    return found


@contextmanager
def smoothed(model: nn.Module, factors: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the block these linears read x / s, and answer as before."""
    import torch

    from kdc.models.shapes import outputs_first

    kept: list[tuple[Any, Tensor]] = []
    hooks = []
    for name, own in factors.items():
        module: Any = model.get_submodule(name)
        hooks.append(module.register_forward_pre_hook(lambda module, inputs, own=own: (inputs[0] / own, *inputs[1:])))
        kept.append((module, module.weight.detach().clone()))
        with torch.no_grad():
            outputs_first(module, module.weight).mul_(own)  # a view
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, weight in kept:
            with torch.no_grad():
                module.weight.copy_(weight)
