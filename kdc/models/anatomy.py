"""Where a transformer's heads and neurons are: of every layer, the projections of its attention and its feed-forward.

A family of models is one row of `FAMILIES`; of a model that none fits, nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdc.errors import KdcError
from kdc.models.layers import layer_stack

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Attention:
    """The heads of one layer, by the names of modules in the model.

    `projections` make queries, keys and values, `[heads * head_size]` wide each; a single one makes all three side by
    side. `output` reads the heads side by side.
    """

    projections: tuple[str, ...]
    output: str
    head_size: int
    heads: int


@dataclass(frozen=True)
class FeedForward:
    """The neurons of one layer: outputs of every linear in `inner` (two where one is a gate), inputs of `outer`."""

    inner: tuple[str, ...]
    outer: str
    neurons: int


@dataclass(frozen=True)
class Layer:
    """One layer of the stack, by its name."""

    name: str
    attention: Attention
    feed_forward: FeedForward


@dataclass(frozen=True)
class Family:
    """Names of modules within a layer."""

    attention: str
    projections: tuple[str, ...]
    output: str
    inner: tuple[str, ...]
    outer: str


FAMILIES = (
    # BERT, RoBERTa, XLM-R, ELECTRA
    Family(
        "attention.self",
        ("attention.self.query", "attention.self.key", "attention.self.value"),
        "attention.output.dense",
        ("intermediate.dense",),
        "output.dense",
    ),
    # DistilBERT
    Family(
        "attention",
        ("attention.q_lin", "attention.k_lin", "attention.v_lin"),
        "attention.out_lin",
        ("ffn.lin1",),
        "ffn.lin2",
    ),
    # GPT-2
    Family("attn", ("attn.c_attn",), "attn.c_proj", ("mlp.c_fc",), "mlp.c_proj"),
    # ViT
    Family(
        "attention",
        ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        "attention.o_proj",
        ("mlp.fc1",),
        "mlp.fc2",
    ),
)


def layers(model: Any, where: str) -> list[Layer]:
    """Every layer of the model's stack, as it is now: heads and neurons may have been cut.

    KdcError, which names the key `where`, for a model that no family fits.
    """
    stack, depth = layer_stack(model, where)
    blocks = list(model.get_submodule(stack).children())
    if len(blocks) < depth:
        raise KdcError(f"{where}: layers share their weights", "cut them before they are shared")
    family = next((family for family in FAMILIES if all(_fits(block, family) for block in blocks)), None)
    if family is None:
        raise KdcError(
            f"{where}: in the layers of a {type(model).__name__} kdc knows no heads and neurons",
            "take prune or svd, which need to know none",
        )
    return [_layer(f"{stack}.{number}", blocks[number], family) for number in range(depth)]


def _fits(block: nn.Module, family: Family) -> bool:
    names = {name for name, _ in block.named_modules()}
    if not {family.attention, *family.projections, family.output, *family.inner, family.outer} <= names:
        return False
    # what holds more than these linears computes otherwise: convolutions beside heads, a second set of projections
    known = (*family.projections, family.output)
    if any(not name.startswith(known) for name, _ in _parameters(block, family.attention)):
        return False
    parts = 3 if len(family.projections) == 1 else 1
    return width(block.get_submodule(family.projections[-1])) == parts * _inputs(block.get_submodule(family.output))


def _parameters(block: nn.Module, attention: str) -> Iterator[tuple[str, nn.Parameter]]:
    """Of the attention, by their names in the block."""
    for name, parameter in block.get_submodule(attention).named_parameters():
        yield f"{attention}.{name}", parameter


def _inputs(linear: Any) -> int:
    part = linear[0] if hasattr(linear, "__getitem__") else linear
    return int(part.nx if hasattr(part, "nx") else part.in_features)


def _layer(name: str, block: nn.Module, family: Family) -> Layer:
    attention: Any = block.get_submodule(family.attention)
    head_size = getattr(attention, "attention_head_size", None) or attention.head_dim
    made = width(block.get_submodule(family.projections[0])) // (3 if len(family.projections) == 1 else 1)
    return Layer(
        name,
        Attention(
            tuple(f"{name}.{projection}" for projection in family.projections),
            f"{name}.{family.output}",
            head_size=int(head_size),
            heads=made // int(head_size),
        ),
        FeedForward(
            tuple(f"{name}.{inner}" for inner in family.inner),
            f"{name}.{family.outer}",
            neurons=width(block.get_submodule(family.inner[0])),
        ),
    )


def width(linear: Any) -> int:
    """How many outputs a linear has; GPT-2's `Conv1D` calls them `nf`, a factorized one asks its second part."""
    part = linear[-1] if hasattr(linear, "__getitem__") else linear
    return int(part.nf if hasattr(part, "nf") else part.out_features)
