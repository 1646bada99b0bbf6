"""The last layer for the first token alone: the same answers and gradients, and less work."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from kdc.errors import KdcError
from kdc.models.first_token import LAST_LAYERS, first_token_only
from kdc.models.rewrites import rewritten
from kdc.models.taps import OF_FIRST_TOKEN, Taps
from tests import tiny

SIZES: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 3,
    "num_labels": 3, "pad_token_id": 0, "max_position_embeddings": 32,
}  # fmt: skip
IDS = torch.arange(1, 21).view(2, 10)
INPUTS = {"input_ids": IDS, "attention_mask": torch.tensor([[1] * 10, [1] * 7 + [0] * 3])}


def build(name: str) -> Any:
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    return tiny.lively(kind(kind.config_class(**SIZES))).double().eval()


def gradients(model: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**INPUTS).logits.square().sum().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", LAST_LAYERS)
def test_answers_and_gradients_are_those_of_the_whole_layer(name: str, attention: str) -> None:
    model = build(name)
    model.set_attn_implementation(attention)
    plain, plain_gradients = model(**INPUTS).logits, gradients(model)
    with first_token_only(model) as can:
        assert can
        torch.testing.assert_close(model(**INPUTS).logits, plain, rtol=1e-12, atol=1e-12)
        found = gradients(model)
        assert model.base_model(**INPUTS).last_hidden_state.shape == (2, 1, 16)
    assert found.keys() == plain_gradients.keys()
    for key, gradient in plain_gradients.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-9, atol=1e-11)
    assert model.base_model(**INPUTS).last_hidden_state.shape == (2, 10, 16)


@pytest.mark.parametrize("name", LAST_LAYERS)
def test_training_drops_out_and_without_a_mask_all_tokens_are_read(name: str) -> None:
    model = build(name)
    with first_token_only(model):
        plain = model(IDS).logits
        model.train()
        assert not torch.equal(model(IDS).logits, model(IDS).logits)
    torch.testing.assert_close(model.eval()(IDS).logits, plain, rtol=1e-12, atol=1e-12)


def tokens_seen(model: Any, names: set[str]) -> int:
    """By the feed-forward part of the last layer."""
    seen = []
    part = model.bert.encoder.layer[-1].intermediate.dense
    hook = part.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[1]))
    taps = Taps(model, names)
    taps(INPUTS)
    taps.close()
    hook.remove()
    return seen[0]


def test_a_signal_of_all_tokens_keeps_the_whole_layer() -> None:
    model = build("BertForSequenceClassification")
    assert tokens_seen(model, set(OF_FIRST_TOKEN)) == 1
    for signal in ("hidden_states", "attentions", "queries", "keys", "values", "input_gradients"):
        assert tokens_seen(model, {"logits", signal}) == 10


def test_what_is_switched_within_the_block_stays_so() -> None:
    model = build("BertForSequenceClassification")
    with first_token_only(model):
        model.train()
        model.gradient_checkpointing_enable()
    last = model.bert.encoder.layer[-1]
    assert last.training
    assert last.gradient_checkpointing
    assert "forward" not in vars(last)


def test_two_at_once_and_other_models_are_left_in_order() -> None:
    model = build("BertForSequenceClassification")
    first, second = Taps(model, {"logits"}), Taps(model, {"logits"})
    with pytest.raises(RuntimeError, match=r"^hidden_states: the model's last layer is shortened"):
        Taps(model, {"hidden_states"})
    first.close()
    second.close()
    assert "forward" not in vars(model.bert.encoder.layer[-1])
    other = build("GPT2ForSequenceClassification")
    with first_token_only(other) as can:
        assert not can
    with pytest.raises(KdcError, match=r"first_token: a GPT2\w+ cannot"), rewritten(other, ("first_token",)):
        raise AssertionError("it would compute all tokens")
    decoder = build("BertForSequenceClassification")
    decoder.config.is_decoder = True
    with first_token_only(decoder) as can:
        assert not can
