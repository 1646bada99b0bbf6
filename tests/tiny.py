"""Tiny models, encoders and rows that the tests build on: seeded, without files, ready in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdc.compress.plan import PrecisionPlan
from kdc.data.examples import Examples
from kdc.export.artifact import Artifact, write_artifact
from kdc.export.base import RUNTIMES
from kdc.models.build import Built
from kdc.models.checkpoint import TEXT_INPUTS
from kdc.tasks.base import TASKS, Task
from kdc.tasks.text import TextEncoder, text_encoder, train_wordpiece

torch.set_num_threads(1)  # these models are too small to be shared out

LABELS = ("negative", "positive")
PORTABLE = [name for name in RUNTIMES if name != "inductor"]
"""Runtimes whose files are made in seconds; the compiler's packages have tests of their own."""
GOOD, BAD = ("good", "great", "fine"), ("bad", "awful", "poor")


def sentences(rows: int, *, seed: int = 0) -> Examples:
    """Sentences of 2 to 12 words that hold one good or one bad word: learnable, of very different lengths."""
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % 2
    fillers = ("the", "film", "was", "plot", "actor", "really", "and", "music")
    texts = []
    for label in labels:
        words = [str(word) for word in random.choice(fillers, size=random.integers(1, 12))]
        words.insert(int(random.integers(0, len(words) + 1)), str(random.choice((BAD, GOOD)[label])))
        texts.append(" ".join(words))
    return Examples({"text": texts, "label": labels.astype(np.int64)}, LABELS)


def pictures(rows: int, *, side: int = 8, channels: int = 1, classes: int = 3, seed: int = 0) -> Examples:
    images = np.random.default_rng(seed).integers(0, 256, size=(rows, side, side, channels), dtype=np.uint8)
    return Examples({"image": images, "label": np.arange(rows) % classes}, tuple("abcdefghij"[:classes]))


def encoder(examples: Examples, *, max_length: int = 32, inputs: Sequence[str] = TEXT_INPUTS) -> TextEncoder:
    texts = [text for name in ("text", "text_pair") if name in examples for text in examples[name]]
    return text_encoder(train_wordpiece(texts, 200), max_length=max_length, inputs=inputs)


def bert(vocab_size: int, *, labels: Sequence[str] = LABELS, layers: int = 2, seed: int = 0, **settings: Any) -> Any:
    """A BERT with weights large enough that its answers differ from row to row."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 32}
    config = BertConfig(
        vocab_size=vocab_size, num_hidden_layers=layers, id2label=dict(enumerate(labels)),
        label2id={name: i for i, name in enumerate(labels)}, **sizes | settings,
    )  # fmt: skip
    return lively(BertForSequenceClassification(config).eval())


def lively(model: Any, *, scale: float = 0.3) -> Any:
    """Redraw the matrices of `model` wider than an initialization would: what is lost in them must show."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=scale)
            elif name.endswith("bias"):
                nn.init.normal_(weight, std=0.1)
    return model


def built_bert(examples: Examples, **settings: Any) -> Built:
    own = encoder(examples)
    return Built(bert(own.vocab_size, labels=examples.labels, **settings), own, new_head=False)


def task(name: str = "text-classification") -> Task:
    return TASKS[name]()


def built_net(examples: Examples, kind: str) -> Built:
    """An MLP or a CNN for square pictures of at least 4x4."""
    from kdc.models.nets import CNN, MLP, CNNConfig, MLPConfig
    from kdc.tasks.image import ImageEncoder

    torch.manual_seed(0)
    own = ImageEncoder.fit(examples, None)
    sizes = {"image_size": own.size[0], "num_channels": own.channels, "num_labels": len(examples.labels)}
    mlp, cnn = {"hidden_sizes": [16, 12], **sizes}, {"channels": [4, 6], "hidden_size": 10, **sizes}
    model = MLP(MLPConfig(**mlp)) if kind == "mlp" else CNN(CNNConfig(**cnn))
    return Built(lively(model.eval()), own, new_head=False)


def built_text_net(examples: Examples, kind: str, **settings: Any) -> Built:
    """A BiLSTM or a text CNN of few units."""
    from kdc.models.text_nets import BiLSTM, BiLSTMConfig, TextCNN, TextCNNConfig

    torch.manual_seed(0)
    own = encoder(examples, inputs=("input_ids", "attention_mask"))
    sizes = {"vocab_size": own.vocab_size, "embedding_size": 12, "num_labels": len(examples.labels)}
    lstm, cnn = {"hidden_size": 10, "classifier_size": 8, **sizes}, {"filters": 6, **sizes}
    model = BiLSTM(BiLSTMConfig(**lstm | settings)) if kind == "bilstm" else TextCNN(TextCNNConfig(**cnn | settings))
    return Built(lively(model.eval(), scale=1.0), own, new_head=False)


def artifact(
    folder: Path,
    built: Built,
    examples: Examples,
    *,
    runtime: str,
    plan: PrecisionPlan | None = None,
    task: Task | None = None,
    traced: int = 3,
) -> Artifact:
    """`built` as an artifact in `folder`, traced on the first rows and opened again."""
    task = task or TASKS["text-classification" if "text" in examples else "image-classification"]()
    folder.mkdir(parents=True, exist_ok=True)
    write_artifact(
        folder,
        task=task,
        runtime=RUNTIMES[runtime](name=runtime),
        plan=plan or PrecisionPlan(),
        graphs=task.graphs(built.model.eval(), built.encoder, examples.select(range(traced))),
        encoder=built.encoder,
        examples=examples,
        model_config=built.model.config,
    )
    return Artifact.open(folder)
