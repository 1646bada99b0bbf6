"""Fixtures: tiny models as artifacts on disk in torch and onnxruntime, written once a session and measured for real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdc.compress.plan import PrecisionPlan
from kdc.data.examples import Examples
from kdc.export.artifact import write_artifact
from kdc.export.base import RUNTIMES
from kdc.tasks.base import Encoder, Task
from tests import tiny


@pytest.fixture(scope="session")
def texts() -> Examples:
    return tiny.sentences(40)


@pytest.fixture(scope="session")
def text_artifacts(tmp_path_factory: pytest.TempPathFactory, texts: Examples) -> dict[str, Path]:
    """One BERT by runtime; it takes at most 32 tokens."""
    return _write(tmp_path_factory, tiny.task(), tiny.bert(1100), tiny.encoder(texts), texts)


@pytest.fixture(scope="session")
def images() -> Examples:
    return tiny.pictures(12)


@pytest.fixture(scope="session")
def image_artifacts(tmp_path_factory: pytest.TempPathFactory, images: Examples) -> dict[str, Path]:
    from kdc.models.nets import MLP, MLPConfig
    from kdc.tasks.image import ImageEncoder

    model = tiny.lively(MLP(MLPConfig(hidden_sizes=(16,), image_size=8, num_labels=3)).eval())
    task = tiny.task("image-classification")
    return _write(tmp_path_factory, task, model, ImageEncoder.fit(images, None), images)


def _write(
    tmp_path_factory: pytest.TempPathFactory, task: Task, model: Any, encoder: Encoder, examples: Examples
) -> dict[str, Path]:
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
            examples=examples,
            model_config=model.config,
        )
    return folders
