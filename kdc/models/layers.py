"""Students cut from their teacher: which layers to keep, and the copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kdc.errors import KdcError

if TYPE_CHECKING:
    from torch import nn


def layer_map(depth: int, layers: int | Sequence[int], pick: str) -> list[int]:
    """The teacher's layers (from 0) that the student keeps, in order.

    A number keeps that many: `uniform` takes every k-th and always the last (Sun et al. 2019, arXiv:1908.09355,
    section 3, call it skip), `top` and `bottom` take one end. A list is taken as it is.
    """
    if isinstance(layers, int):
        if layers > depth:
            raise KdcError(f"student.layers={layers}: the teacher has {depth} layers", f"use {depth} or fewer")
        if pick == "uniform":
            return [-(-(i + 1) * depth // layers) - 1 for i in range(layers)]
        return list(range(depth - layers, depth)) if pick == "top" else list(range(layers))
    chosen = list(layers)
    if not chosen or min(chosen) < 0 or max(chosen) >= depth:
        raise KdcError(
            f"student.layers={chosen}: the teacher has layers 0 to {depth - 1}", f"use numbers from 0 to {depth - 1}"
        )
    return chosen


def copy_layers(teacher: Any, kept: Sequence[int]) -> Any:
    """A new model of the teacher's class with only the layers `kept`, all other weights copied."""
    import copy

    prefix, depth = layer_stack(teacher)
    config = copy.deepcopy(teacher.config)
    _note_layers(config, depth, kept)
    student = type(teacher)(config)
    renumbered = {}
    for name, tensor in teacher.state_dict().items():
        if name.startswith(prefix + "."):
            number, rest = name.removeprefix(prefix + ".").split(".", 1)
            for new, old in enumerate(kept):
                if int(number) == old:
                    renumbered[f"{prefix}.{new}.{rest}"] = tensor
        else:
            renumbered[name] = tensor
    try:
        student.load_state_dict(renumbered, strict=True)
    except RuntimeError as error:
        # ModernBERT's first layer lacks a norm that the others have
        raise KdcError(
            f"student.layers={list(kept)}: the layers of {type(teacher).__name__} are not all alike",
            "keep layer 0 as the first: student.layers='[0, ...]'",
        ) from error
    return student


def drop_layers(model: Any, kept: Sequence[int]) -> None:
    """Leave a model the layers `kept` alone, whatever shapes they have."""
    from torch import nn

    name, depth = layer_stack(model)
    stack = model.get_submodule(name)
    model.set_submodule(name, nn.ModuleList(stack[number] for number in kept))
    for number, layer in enumerate(model.get_submodule(name)):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):  # where a cache keeps what it said
                module.layer_idx = number
    _note_layers(model.config, depth, kept)


def _note_layers(config: Any, depth: int, kept: Sequence[int]) -> None:
    for key, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == depth and key.startswith("layer"):
            setattr(config, key, [value[i] for i in kept])
    config.num_hidden_layers = len(kept)


def layer_stack(model: nn.Module, where: str = "student.layers") -> tuple[str, int]:
    """The name of the `ModuleList` that holds the model's `num_hidden_layers` blocks, and how many they are.

    `where` is the key that an error names.
    """
    from torch import nn

    staged = hasattr(model.config, "depths")  # stages, which differ in width, are no layers to choose from
    depth = None if staged else getattr(model.config, "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return name, len(module)
    raise KdcError(
        f"{where}: {type(model).__name__} has no stack of layers to choose from",
        "choose another student: kdc list student" if where == "student.layers" else "leave the pass out",
    )


def last_linear(model: Any) -> Any:
    """The layer with a row for each label."""
    labels = model.config.num_labels
    return [module for module in model.modules() if getattr(module, "out_features", None) == labels][-1]
