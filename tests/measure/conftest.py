"""Tiny artifacts that are written once a session and measured for real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdc.compress.plan import PrecisionPlan
from kdc.data.examples import Examples
from kdc.export.artifact import write_artifact
from kdc.export.base import RUNTIMES
from kdc.tasks.base import TASKS

TEXTS = [f"{'good' if i % 2 else 'bad'} film number {i} {'really ' * (i % 7)}" for i in range(40)]


@pytest.fixture(scope="session")
def texts() -> Examples:
    return Examples({"text": TEXTS, "label": np.arange(40) % 2}, ("negative", "positive"))


@pytest.fixture(scope="session")
def text_artifacts(tmp_path_factory: pytest.TempPathFactory, texts: Examples) -> dict[str, Path]:
    """The same randomly initialized BERT in torch and onnxruntime; takes at most 64 tokens."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from kdc.tasks.text import text_encoder, train_wordpiece

    torch.manual_seed(0)
    tokenizer = train_wordpiece(TEXTS, 200)
    config = BertConfig(
        vocab_size=1100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, num_labels=2,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    encoder = text_encoder(tokenizer, max_length=64, inputs=("input_ids", "token_type_ids", "attention_mask"))
    return _write(tmp_path_factory, "text-classification", model, encoder, texts)


@pytest.fixture(scope="session")
def digits() -> Examples:
    images = np.random.default_rng(0).integers(0, 255, size=(12, 8, 8, 1), dtype=np.uint8)
    return Examples({"image": images, "label": np.arange(12) % 3}, ("a", "b", "c"))


@pytest.fixture(scope="session")
def image_artifacts(tmp_path_factory: pytest.TempPathFactory, digits: Examples) -> dict[str, Path]:
    import torch

    from kdc.models.nets import MLP, MLPConfig
    from kdc.tasks.image import ImageEncoder

    torch.manual_seed(0)
    model = MLP(MLPConfig(image_size=8, num_channels=1, hidden_sizes=[16], num_labels=3)).eval()
    return _write(tmp_path_factory, "image-classification", model, ImageEncoder.fit(digits, None), digits)


def _write(tmp_path_factory, task_name, model, encoder, examples) -> dict[str, Path]:
    task = TASKS[task_name]()
    folders = {}
    for runtime in ("torch", "onnxruntime"):
        folders[runtime] = tmp_path_factory.mktemp(runtime)
        write_artifact(
            folders[runtime],
            task=task,
            runtime=RUNTIMES[runtime](name=runtime),
            plan=PrecisionPlan(),
            graphs=task.graphs(model, encoder, examples.select(range(4))),
            encoder=encoder,
            labels=examples.labels,
            model_config=model.config,
        )
    return folders
