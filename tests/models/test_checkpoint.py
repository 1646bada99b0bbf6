"""What a checkpoint says of its model's limits."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, RobertaConfig, RobertaModel

from kdc.models.checkpoint import counts_from_padding, positions
from kdc.models.nets import MLPConfig

SIZES = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 9}


@pytest.mark.parametrize(
    ("config", "model"),
    [
        (RobertaConfig(**SIZES, max_position_embeddings=20, pad_token_id=1), RobertaModel),
        (RobertaConfig(**SIZES, max_position_embeddings=20, pad_token_id=3), RobertaModel),
        (BertConfig(**SIZES, max_position_embeddings=20), BertModel),
    ],
)
def test_as_many_tokens_as_a_model_takes_and_no_more(config: object, model: type) -> None:
    limit = positions(config, 99)
    made = model(config).eval()
    with torch.no_grad():
        assert made(torch.full((1, limit), 5)).last_hidden_state.shape == (1, limit, 8)
        with pytest.raises((IndexError, RuntimeError)):
            made(torch.full((1, limit + 1), 5))


def test_models_without_a_limit_have_the_default() -> None:
    assert positions(MLPConfig(), 99) == 99
    assert positions(GPT2Config(n_positions=30), 99) == 30
    assert not counts_from_padding(MLPConfig())
