"""Tiny models of every family that structured passes know, and rows for each."""

from __future__ import annotations

from typing import Any

import torch

from kdc.compress.calibration import Calibration
from kdc.models.build import Built
from tests import tiny

ROWS = tiny.sentences(24)
PICTURES = tiny.pictures(12, side=16)
SIZES = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
GPT2 = {"n_embd": 32, "n_head": 4, "n_inner": 48, "n_positions": 32}


def texts(name: str, layers: int = 3) -> Built:
    """A classifier of texts: bert, roberta, electra, distilbert or gpt2."""
    import transformers as hf

    encoder = tiny.encoder(ROWS)
    vocabulary = {
        "vocab_size": encoder.vocab_size,
        "id2label": dict(enumerate(tiny.LABELS)),
        "pad_token_id": encoder.pad_id,
    }
    bert = {**SIZES, **vocabulary, "num_hidden_layers": layers, "max_position_embeddings": 40}
    config: Any = {
        "bert": lambda: hf.BertConfig(**bert),
        "roberta": lambda: hf.RobertaConfig(**bert),
        "electra": lambda: hf.ElectraConfig(**bert, embedding_size=16),
        "distilbert": lambda: hf.DistilBertConfig(dim=32, n_heads=4, hidden_dim=48, n_layers=layers, **vocabulary),
        "gpt2": lambda: hf.GPT2Config(**GPT2, **vocabulary, n_layer=layers),
    }[name]()
    torch.manual_seed(0)
    model = tiny.lively(hf.AutoModelForSequenceClassification.from_config(config).eval(), scale=0.2)
    inputs = ("input_ids", "attention_mask") if name in ("distilbert", "gpt2", "roberta") else encoder.inputs
    return Built(model, encoder.for_model(inputs, max_length=32), new_head=False)


def pictures(name: str, layer_type: str = "basic", layers: int = 3) -> Built:
    """A classifier of pictures: resnet (two residual stages, with and without a convolution in the shortcut) or vit."""
    import transformers as hf

    encoder = tiny.built_net(PICTURES, "cnn").encoder
    sizes: dict[str, Any] = {"num_channels": 1, "image_size": 16, "id2label": dict(enumerate("abc"))}
    torch.manual_seed(0)
    if name == "vit":
        config = hf.ViTConfig(patch_size=4, **SIZES, **sizes, num_hidden_layers=layers)
        model = tiny.lively(hf.ViTForImageClassification(config).eval(), scale=0.2)
        return Built(model, encoder, new_head=False)
    config = hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type=layer_type, num_labels=3, **sizes
    )
    model = hf.ResNetForImageClassification(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return Built(model.eval(), encoder, new_head=False)


def calibration(built: Built, rows: int = 24) -> Calibration:
    return Calibration(tiny.task(), built.encoder, ROWS.select(range(rows)))


def batch(built: Built, rows: int = 6) -> dict[str, torch.Tensor]:
    arrays = built.encoder.collate(built.encoder.encode(ROWS.select(range(rows))))
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def answers(built: Built, rows: int = 6) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = built.model(**batch(built, rows)).logits
    return logits
