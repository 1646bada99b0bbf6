"""The transformers config that a model of the run will have, known before it is built or loaded."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from kdc.models.spec import ModelConfig, StudentConfig, TeacherConfig

if TYPE_CHECKING:
    from kdc.stages import Data


def model_settings(config: ModelConfig, data: Data, teacher: Any | None) -> Any:
    """The config of the model, with what it takes from the data or from its teacher's (None: it is the teacher)."""
    from transformers import AutoConfig

    from kdc.hub import model_folder

    data.task.model_class()  # teaches transformers the plain nets
    if config.path is not None:
        role = "teacher" if isinstance(config, TeacherConfig) else "student"
        folder, _ = model_folder(config.path, config.revision, f"{role}.path")
        return AutoConfig.from_pretrained(folder, num_labels=len(data.labels))
    if config.architecture is not None:
        keys = {"num_labels": len(data.labels), **_sizes(config, data, teacher), **config.architecture}
        return AutoConfig.for_model(keys.pop("model_type"), **keys)
    assert isinstance(config, StudentConfig)
    assert teacher is not None
    settings = copy.deepcopy(teacher)
    settings.num_hidden_layers = config.layers if isinstance(config.layers, int) else len(config.layers or ())
    return settings


def _sizes(config: ModelConfig, data: Data, teacher: Any | None) -> dict[str, Any]:
    """What a model from scratch takes from the data; a student's tokenizer is its teacher's unless it has its own."""
    if data.task.modality == "text":
        own = getattr(config, "vocab_size", None)
        return {"vocab_size": own if own is not None or teacher is None else teacher.vocab_size}
    side, _, channels = np.asarray(data.splits["train"]["image"][0]).shape
    return {"image_size": data.image_size or side, "num_channels": channels}
