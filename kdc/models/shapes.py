"""Models of other shapes than their config says: how outputs and inputs are cut, and how such a model loads again.

The weights tell the shapes of what was cut. `shapes.json` beside them marks a folder that `transformers` alone cannot
load: it lists the tensors that differ, the matrices that are two now, and the modules that are another one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdc.errors import KdcError
from kdc.quiet import quiet

SHAPES = "shapes.json"
FORMAT = 2
FIRST, SECOND = "0", "1"
"""What the parts of a factorized matrix are called."""


class Factorized(nn.Sequential):
    """Two modules where one was: a linear as two, an embedding as one with a linear behind it."""


def keep_outputs(model: nn.Module, name: str, kept: Tensor) -> None:
    """Leave a linear, convolution or norm only the outputs `kept` (their numbers, in order)."""
    module: Any = model.get_submodule(name)
    set_tensor(module, "weight", module.weight.index_select(1 if _transposed(module) else 0, kept))
    if module.bias is not None:
        set_tensor(module, "bias", module.bias.index_select(0, kept))
    _describe(module)


def keep_inputs(model: nn.Module, name: str, kept: Tensor) -> None:
    """Leave a linear only the inputs `kept` (their numbers, in order)."""
    module: Any = model.get_submodule(name)
    set_tensor(module, "weight", module.weight.index_select(0 if _transposed(module) else 1, kept))
    _describe(module)


def keep_rows(model: nn.Module, name: str, kept: Sequence[int]) -> None:
    """Leave an embedding, or the first part of a factorized one, only the rows `kept`, in this order."""
    found: Any = model.get_submodule(name)
    module: Any = found[0] if isinstance(found, Factorized) else found
    set_tensor(module, "weight", module.weight[list(kept)])
    if module.padding_idx is not None:
        module.padding_idx = list(kept).index(module.padding_idx)
    _describe(module)


def keep_columns(model: nn.Module, name: str, kept: Tensor) -> None:
    """Leave an embedding only the columns `kept` (their numbers, in order)."""
    module: Any = model.get_submodule(name)
    set_tensor(module, "weight", module.weight.index_select(1, kept))
    _describe(module)


def factorize(model: nn.Module, name: str, right: Tensor, left: Tensor) -> None:
    """Replace a matrix W `[a, b]` by two whose product `left @ right` stands for it, `[a, rank]` and `[rank, b]`.

    Of a linear `[outputs, inputs]` `right` comes first; of an embedding `[tokens, width]` `left` is looked up.
    """
    module: Any = model.get_submodule(name)
    if isinstance(module, nn.Embedding):
        pair = _looked_up(module, len(right), right.shape[1])
        first, second = left, right.t()
    else:
        pair = _pair(right.shape[1], len(right), len(left), bias=module.bias is not None, like=module.weight)
        first, second = right, left
        if module.bias is not None:
            set_tensor(pair[1], "bias", module.bias)
    set_tensor(pair[0], "weight", first)
    set_tensor(pair[1], "weight", second)
    model.set_submodule(name, pair)


def differing(model: Any) -> dict[str, list[int]]:
    """The tensors that a model of this config does not have, or not in this shape; none of a plain model."""
    import torch

    with torch.device("meta"), quiet():
        skeleton = type(model)(model.config)
    plain = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return {name: list(shape) for name, shape in own.items() if plain.get(name) != shape}


def shared(model: nn.Module) -> dict[str, str]:
    """Modules that are another one, by their names and its name."""
    first: dict[int, str] = {}
    found: dict[str, str] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        whole = first.setdefault(id(module), name)
        if whole != name and name.rpartition(".")[0] not in found and not _within(name, found):
            found[name] = whole
    return found


def _within(name: str, found: Mapping[str, str]) -> bool:
    return any(name.startswith(f"{other}.") for other in found)


def save_cut(model: Any, folder: Path) -> bool:
    """Write a model that is none of its config's into `folder`, marked as such; False for a plain one."""
    from safetensors.torch import save_file

    changed, twins = differing(model), shared(model)
    if not changed and not twins:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    tensors = {name: tensor.contiguous() for name, tensor in _own(model, twins).items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    pairs = [name for name, module in model.named_modules() if isinstance(module, Factorized)]
    noted = {"format": FORMAT, "tensors": changed, "factorized": pairs, "shared": twins}
    (folder / SHAPES).write_text(json.dumps(noted, indent=1) + "\n")
    return True


def _own(model: Any, twins: Mapping[str, str]) -> dict[str, Tensor]:
    """The state of a model, every tensor once."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    return {n: t for n, t in model.state_dict().items() if not _within(n, twins) and n not in tied}


def is_cut(folder: Path) -> bool:
    """Whether the model in this folder is one that `load_cut` alone loads."""
    return (folder / SHAPES).is_file()


def load_cut(folder: Path, model_class: Any, config: Any) -> Any:
    """A model with the weights in `folder`, in the shapes that they have; KdcError where they fit no such model."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        noted = json.loads((folder / SHAPES).read_text(encoding="utf-8"))
        if noted["format"] != FORMAT:
            raise KdcError(f"{folder / SHAPES}: format {noted['format']} is not this kdc's ({FORMAT})", "make it again")
        tensors, twins = load_file(folder / "model.safetensors"), noted["shared"]
        own = {name: shape for name, shape in noted["tensors"].items() if not _within(name, twins)}
        wrong = sorted(name for name, shape in own.items() if list(tensors[name].shape) != shape)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise KdcError(f"{folder}: {SHAPES} or the weights are damaged ({error})", "make the model again") from error
    if wrong:
        raise KdcError(f"{folder}: {wrong[0]} has not the shape that {SHAPES} says", "make the model again")
    with quiet():
        model = model_class(config)
    for name, whole in twins.items():
        model.set_submodule(name, model.get_submodule(whole))
    try:
        for name in noted["factorized"]:
            _make_pair(model, name, tensors)
        reshape(model, tensors)
    except AttributeError as error:
        raise KdcError(
            f"{folder}: its weights are of no {model_class.__name__} of its config ({error})", "make it again"
        ) from error
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    missing, unknown = model.load_state_dict(tensors, strict=False, assign=True)
    if lost := [*unknown, *(name for name in missing if name not in tied and not _within(name, twins))]:
        raise KdcError(f"{folder}: {lost[0]} and a {model_class.__name__} do not go together", "make the model again")
    model.tie_weights()
    return model.eval()


def reshape(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a model's modules the shapes of these tensors, by their names; the weights themselves do not come along."""
    for name, tensor in tensors.items():
        place, _, key = name.rpartition(".")
        module = model.get_submodule(place)
        if getattr(module, key).shape != tensor.shape:
            set_tensor(module, key, tensor)
            if key == "weight":
                _describe(module)
    refresh(model)


def refresh(model: nn.Module) -> None:
    """Let attention modules know how wide they are now, where they remember it."""
    module: Any
    for module in model.modules():
        if hasattr(module, "split_size") and hasattr(module, "c_attn"):  # GPT-2
            module.split_size = _outputs(module.c_attn) // 3
            module.num_heads = module.split_size // module.head_dim
        elif hasattr(module, "all_head_size") and hasattr(module, "query"):  # BERT's family
            module.all_head_size = _outputs(module.query)
            module.num_attention_heads = module.all_head_size // module.attention_head_size


def _make_pair(model: nn.Module, name: str, tensors: Mapping[str, Tensor]) -> None:
    module = model.get_submodule(name)
    first, second = tensors[f"{name}.{FIRST}.weight"], tensors[f"{name}.{SECOND}.weight"]
    if isinstance(module, nn.Embedding):
        pair = _looked_up(module, second.shape[1], len(second))
    else:
        bias = f"{name}.{SECOND}.bias" in tensors
        pair = _pair(first.shape[1], len(first), len(second), bias=bias, like=first)
    model.set_submodule(name, pair)


def _looked_up(embedding: nn.Embedding, rank: int, width: int) -> Factorized:
    settings: Any = {"device": embedding.weight.device, "dtype": embedding.weight.dtype}
    narrow = nn.Embedding(embedding.num_embeddings, rank, padding_idx=embedding.padding_idx, **settings)
    return Factorized(narrow, nn.Linear(rank, width, bias=False, **settings))


def _pair(inputs: int, rank: int, outputs: int, *, bias: bool, like: Tensor) -> Factorized:
    settings: Any = {"device": like.device, "dtype": like.dtype}
    return Factorized(nn.Linear(inputs, rank, bias=False, **settings), nn.Linear(rank, outputs, bias, **settings))


def set_tensor(module: nn.Module, key: str, tensor: Tensor) -> None:
    """Put a copy of `tensor` in the place of a parameter or buffer."""
    old = getattr(module, key)
    if key in module._buffers:
        module._buffers[key] = tensor.detach().clone()
    else:
        module._parameters[key] = nn.Parameter(tensor.detach().clone(), requires_grad=old.requires_grad)


def _transposed(module: nn.Module) -> bool:
    """GPT-2's `Conv1D` keeps `[inputs, outputs]`."""
    return type(module).__name__ == "Conv1D"


def outputs_first(module: nn.Module, weight: Tensor) -> Tensor:
    """A module's weight, or its gradient, as `[outputs, inputs]`."""
    return weight.t() if _transposed(module) else weight


def _outputs(module: Any) -> int:
    part: Any = module[-1] if isinstance(module, Factorized) else module
    return int(outputs_first(part, part.weight).shape[0])


def _describe(module: Any) -> None:
    """The sizes that a module says it has, from the weight that it has."""
    shape: Sequence[int] = module.weight.shape
    if _transposed(module):
        module.nx, module.nf = shape
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = shape
    elif isinstance(module, nn.Conv2d):
        module.out_channels, module.in_channels = shape[0], shape[1] * module.groups
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = shape
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(shape)
    elif isinstance(module, nn.BatchNorm2d):
        module.num_features = shape[0]
    else:
        raise KdcError(f"no way is known to resize a {type(module).__name__}", "leave its shape as it is")
