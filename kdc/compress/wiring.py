"""Which modules read what: told by the very tensors that go between them while a batch goes through."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdc.compress.calibration import Calibration


def reading_alike(model: nn.Module, names: list[str], rows: Calibration) -> list[list[str]]:
    """The named modules, those together that read the same tensor."""
    readers: dict[int, list[str]] = {}
    alive: list[Tensor] = []  # so that no address is used twice

    def note(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: tuple[Tensor, ...]) -> None:
            alive.append(inputs[0])
            readers.setdefault(id(inputs[0]), []).append(name)

        return hook

    with ExitStack() as stack:
        for name in names:
            stack.callback(model.get_submodule(name).register_forward_pre_hook(note(name)).remove)
        rows.run_once(model)
    return list(readers.values())


def rectified(model: nn.Module, names: list[str], rows: Calibration) -> set[str]:
    """Those of the named modules whose output, as they put it out, goes into a ReLU and into no other module."""
    import torch
    from torch.nn import Identity, ReLU

    makers: dict[tuple[int, int], str] = {}  # what is added to in place is another version of the same tensor
    read: dict[str, list[bool]] = {}
    alive: list[Tensor] = []
    modules = {model.get_submodule(name): name for name in names}

    def note(module: Any, inputs: Any, output: Any) -> None:
        if inputs and isinstance(inputs[0], torch.Tensor) and not isinstance(module, Identity):
            alive.append(inputs[0])
            if not list(module.children()) and (maker := makers.get((id(inputs[0]), inputs[0]._version))) is not None:
                read.setdefault(maker, []).append(isinstance(module, ReLU))
        if module in modules:
            alive.append(output)
            makers[id(output), output._version] = modules[module]

    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_hook(note).remove)
        rows.run_once(model)
    return {name for name, readers in read.items() if all(readers)}
