"""Tiny models of every family that structured passes know, and rows for each."""

from __future__ import annotations

from typing import Any

import torch

from kdc.compress.calibration import Calibration
from kdc.models.build import Built
from tests import tiny

ROWS = tiny.sentences(24)
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 3}
GPT2 = {"n_embd": 32, "n_head": 4, "n_inner": 48, "n_layer": 3, "n_positions": 32}


def texts(name: str) -> Built:
    """A classifier of texts: bert, roberta, electra, distilbert or gpt2."""
    import transformers as hf

    encoder = tiny.encoder(ROWS)
    vocabulary = {
        "vocab_size": encoder.vocab_size,
        "id2label": dict(enumerate(tiny.LABELS)),
        "pad_token_id": encoder.pad_id,
    }
    bert = {**SIZES, **vocabulary, "max_position_embeddings": 40}
    config: Any = {
        "bert": lambda: hf.BertConfig(**bert),
        "roberta": lambda: hf.RobertaConfig(**bert),
        "electra": lambda: hf.ElectraConfig(**bert, embedding_size=16),
        "distilbert": lambda: hf.DistilBertConfig(dim=32, n_heads=4, hidden_dim=48, n_layers=3, **vocabulary),
        "gpt2": lambda: hf.GPT2Config(**GPT2, **vocabulary),
    }[name]()
    torch.manual_seed(0)
    model = tiny.lively(hf.AutoModelForSequenceClassification.from_config(config).eval(), scale=0.2)
    inputs = ("input_ids", "attention_mask") if name in ("distilbert", "gpt2", "roberta") else encoder.inputs
    return Built(model, encoder.for_model(inputs, max_length=32), new_head=False)


def calibration(built: Built, rows: int = 24) -> Calibration:
    return Calibration(tiny.task(), built.encoder, ROWS.select(range(rows)))


def batch(built: Built, rows: int = 6) -> dict[str, torch.Tensor]:
    arrays = built.encoder.collate(built.encoder.encode(ROWS.select(range(rows))))
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def answers(built: Built, rows: int = 6) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = built.model(**batch(built, rows)).logits
    return logits
