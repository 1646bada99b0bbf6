"""Where a transformer's heads and neurons are: of every layer, the projections of its attention and its feed-forward.

A family of models is one row of `FAMILIES`; of a model that none fits, nothing is guessed.
"""

from __future__ import annotations

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

    module: str
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
    # Wav2Vec2, HuBERT
    Family(
        "attention",
        ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        "attention.out_proj",
        ("feed_forward.intermediate_dense",),
        "feed_forward.output_dense",
    ),
)


def layers(model: Any) -> list[Layer]:
    """Every layer of the model's stack, as it is now: heads and neurons may have been cut. KdcError where none fit."""
    stack, depth = layer_stack(model)
    blocks = list(model.get_submodule(stack).children())
    family = next((family for family in FAMILIES if _fits(blocks[0], family)), None)
    if family is None:
        raise KdcError(
            f"{type(model).__name__}: its layers are built in no way that kdc knows the heads and neurons of",
            "prune weights, or factorize its linears: they need to know none",
        )
    return [_layer(f"{stack}.{number}", blocks[number], family) for number in range(depth)]


def _fits(block: nn.Module, family: Family) -> bool:
    names = {name for name, _ in block.named_modules()}
    return {family.attention, *family.projections, family.output, *family.inner, family.outer} <= names


def _layer(name: str, block: nn.Module, family: Family) -> Layer:
    attention: Any = block.get_submodule(family.attention)
    head_size = getattr(attention, "attention_head_size", None) or attention.head_dim
    made = width(block.get_submodule(family.projections[0])) // (3 if len(family.projections) == 1 else 1)
    return Layer(
        name,
        Attention(
            f"{name}.{family.attention}",
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
