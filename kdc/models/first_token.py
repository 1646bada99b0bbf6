"""What a classifier's last layer need not compute: every token but the first.

The heads of BERT's family read the first token alone. Of the last layer that leaves one query a row, its output
projection and its feed-forward part; keys and values are still those of all tokens. The answer is the same, and of a
student of three layers about a quarter of the work is gone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from types import MethodType
from typing import Any

from torch import Tensor

from kdc.models.layers import layer_stack

Forward = Callable[..., Tensor]


@contextmanager
def first_token_only(model: Any) -> Iterator[bool]:
    """Within the block the model's last layer puts out its first token alone; yields whether it is a model that can.

    `logits` stay as they are, but for rounding; hidden states and attentions of the last layer do not.
    """
    forward = LAST_LAYERS.get(type(model).__name__)
    if forward is None or getattr(model.config, "is_decoder", False):
        yield False
        return
    if is_shortened(model):
        yield True  # somebody else's block is open
        return

    def shortened(own: Any, *inputs: Any, **settings: Any) -> Tensor:
        if own.gradient_checkpointing and own.training:  # which `transformers` does in the class's own forward
            output: Tensor = own._gradient_checkpointing_func(partial(forward, own, **settings), *inputs)
            return output
        return forward(own, *inputs, **settings)

    stack = _stack(model)
    whole = stack[-1]
    # In its place another layer of the same parts: where layers share their weights, `whole` is an earlier one too.
    layer = stack[-1] = copy(whole)
    layer.forward = MethodType(shortened, layer)  # which goes along where the model is copied
    try:
        yield True
    finally:
        del layer.forward
        vars(whole).update(vars(layer))  # what was switched meanwhile, as by `train()`
        stack[-1] = whole


def is_shortened(model: Any) -> bool:
    """Whether such a block is open."""
    return type(model).__name__ in LAST_LAYERS and "forward" in vars(_stack(model)[-1])


def _stack(model: Any) -> Any:
    return model.get_submodule(layer_stack(model)[0])


def _bert_layer(layer: Any, states: Tensor, mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    attention, first = layer.attention, states[:, :1]
    own = attention.self
    said = _attend(own, own.query(first), own.key(states), own.value(states), mask)
    output: Tensor = layer.feed_forward_chunk(attention.output(said, first))
    return output


def _distilbert_layer(layer: Any, states: Tensor, mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    own, first = layer.attention, states[:, :1]
    said = own.out_lin(_attend(own, own.q_lin(first), own.k_lin(states), own.v_lin(states), mask))
    attended = layer.sa_layer_norm(said + first)
    output: Tensor = layer.output_layer_norm(layer.ffn(attended) + attended)
    return output


LAST_LAYERS: dict[str, Forward] = {
    "BertForSequenceClassification": _bert_layer,
    "RobertaForSequenceClassification": _bert_layer,
    "XLMRobertaForSequenceClassification": _bert_layer,
    "ElectraForSequenceClassification": _bert_layer,
    "DistilBertForSequenceClassification": _distilbert_layer,
}
"""How the last layer of these puts out its first token, `[rows, 1, width]`, of `[rows, length, width]`."""


def _attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """The module's own attention for the first token, `[rows, 1, width]`."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    plain = sys.modules[type(module).__module__].eager_attention_forward
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(module.config._attn_implementation, plain)
    heads = [part.unflatten(-1, (-1, module.attention_head_size)).transpose(1, 2) for part in (query, key, value)]
    first = mask[:, :, :1] if mask is not None and mask.ndim == 4 else mask  # [rows, 1, 1, length]
    dropout = module.dropout.p if module.training else 0.0
    output, _ = attend(module, *heads, first, dropout=dropout, scaling=module.scaling)
    said: Tensor = output.flatten(2)
    return said
