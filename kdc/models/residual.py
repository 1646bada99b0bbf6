"""The stream that a transformer's layers read from and add to: everything that is as wide as it, part by part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kdc.errors import KdcError
from kdc.models.anatomy import layers, width
from kdc.models.layers import layer_stack
from kdc.models.shapes import keep_columns, keep_inputs, keep_outputs, outputs_first, set_tensor


@dataclass(frozen=True)
class Residual:
    """Linears that read all of the stream, linears and convolutions that write to it, norms of it, embeddings that
    start it, and loose parameters that are added to it."""

    width: int
    readers: tuple[str, ...]
    writers: tuple[str, ...]
    norms: tuple[str, ...]
    tables: tuple[str, ...]
    loose: tuple[str, ...]


def residual(model: Any, where: str) -> Residual:
    """The parts of the model's stream; KdcError, naming the key `where`, for a model whose layers are not known."""
    found = layers(model, where)
    stack, _ = layer_stack(model, where)
    wide = width(model.get_submodule(found[0].attention.output))
    readers = [name for one in found for name in (*one.attention.projections, *one.feed_forward.inner)]
    writers = [name for one in found for name in (one.attention.output, one.feed_forward.outer)]
    norms, tables = [], []
    behind, taken = False, False
    for name, module in model.named_modules():
        behind = behind or name.startswith(f"{stack}.")
        if isinstance(module, nn.LayerNorm) and tuple(module.normalized_shape) == (wide,):
            norms.append(name)
        elif isinstance(module, nn.Embedding) and module.embedding_dim == wide:
            tables.append(name)
        elif name.startswith(f"{stack}."):
            continue
        elif isinstance(module, nn.Conv2d) and module.out_channels == wide:
            writers.append(name)
        elif isinstance(module, nn.Linear) and not behind and module.out_features == wide:
            writers.append(name)  # from narrower embeddings
        elif isinstance(module, nn.Linear) and behind and not taken and module.in_features == wide:
            readers.append(name)  # the head's first linear; its others read what that one makes
            taken = True
    loose = [name for name, p in model.named_parameters() if _is_loose(model, name, p) and p.shape[-1] == wide]
    if len(norms) < 2 * len(found) or not taken:
        raise KdcError(
            f"{where}: what a {type(model).__name__} adds up between its layers is not known to kdc", "leave it out"
        )
    return Residual(wide, tuple(readers), tuple(writers), tuple(norms), tuple(tables), tuple(loose))


def keep_width(model: Any, stream: Residual, kept: Tensor) -> None:
    """Leave the stream only the dimensions `kept` (their numbers, in order)."""
    for name in stream.readers:
        keep_inputs(model, name, kept)
    for name in (*stream.writers, *stream.norms):
        keep_outputs(model, name, kept)
    for name in stream.tables:
        keep_columns(model, name, kept)
    for name in stream.loose:
        place, _, key = name.rpartition(".")
        set_tensor(model.get_submodule(place), key, model.get_parameter(name).index_select(-1, kept))
    model.tie_weights()


def matrices(model: Any, stream: Residual) -> tuple[list[Tensor], list[Tensor]]:
    """The weights that read the stream and those that write it, `[outputs, inputs]` each."""
    read = [_matrix(model.get_submodule(name)) for name in stream.readers]
    return read, [_matrix(model.get_submodule(name)) for name in stream.writers]


def _matrix(module: Any) -> Tensor:
    weight: Tensor = outputs_first(module, module.weight.detach())
    return weight.flatten(1)


def _is_loose(model: Any, name: str, parameter: Tensor) -> bool:
    """Whether it belongs to no linear, norm, embedding or convolution."""
    owner = model.get_submodule(name.rpartition(".")[0])
    return not hasattr(owner, "weight") and parameter.ndim > 1
