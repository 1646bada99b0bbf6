"""What layers read and put out, and what of it counts: real tokens, the pixels under a kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextmanager
def layers_watched(model: nn.Module, names: list[str]) -> Iterator[Mapping[str, tuple[Tensor, Tensor]]]:
    """What each of these layers read and put out when the model last ran."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[Tensor, ...], settings: Any, output: Any) -> None:
            read = inputs[0] if inputs else settings["hidden_states"]
            seen[name] = read, output[0] if isinstance(output, tuple) else output

        return hook

    with ExitStack() as stack:
        for name in names:
            stack.callback(model.get_submodule(name).register_forward_hook(keep(name), with_kwargs=True).remove)
        yield seen


def positions_of(module: Any, states: Tensor, mask: Tensor | None) -> Tensor:
    """`[positions, inputs]` of what a linear or convolution reads, padding of texts left out."""
    from torch.nn import functional

    if hasattr(module, "kernel_size"):
        states = functional.pad(states, module._reversed_padding_repeated_twice)  # "same" and "valid" in numbers too
        kernel, dilation, stride = module.kernel_size, module.dilation, module.stride
        if len(kernel) == 1:  # a picture of one line
            states, kernel, dilation, stride = states[:, :, None], (1, *kernel), (1, *dilation), (1, *stride)
        return functional.unfold(states, kernel, dilation, 0, stride).transpose(1, 2).flatten(0, 1)
    if states.ndim == 3 and mask is not None and mask.shape == states.shape[:2]:
        return states[mask.bool()]
    return states.reshape(-1, states.shape[-1])


def values_of(states: Sequence[Tensor], mask: Tensor | None) -> Tensor:
    """All values of these tensors, `[values]`, padding of texts left out."""
    import torch

    return torch.cat([positions_of(None, one, mask).flatten() for one in states])
