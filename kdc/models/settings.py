"""The transformers config that a model of the run will have, known before it is built or loaded, and models of it."""

from __future__ import annotations

import copy
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdc.data.examples import Examples
from kdc.errors import KdcError, did_you_mean
from kdc.models.spec import ModelConfig, StudentConfig, TeacherConfig
from kdc.quiet import quiet
from kdc.tasks.base import Task


@dataclass(frozen=True)
class Needs:
    """What the data asks of a model: its labels in order, its rows (for a tokenizer from scratch), its input sizes."""

    task: Task
    train: Examples
    max_length: int
    image_size: int | None

    @property
    def labels(self) -> tuple[str, ...]:
        return self.train.labels


def model_settings(config: ModelConfig, needs: Needs, teacher: Any | None) -> Any:
    """The config of the model, with what it takes from the data or from its teacher's (None: it is the teacher)."""
    from transformers import AutoConfig

    from kdc.hub import model_folder

    needs.task.model_class()  # teaches transformers the plain nets
    role = "teacher" if isinstance(config, TeacherConfig) else "student"
    if config.path is not None:
        folder, _ = model_folder(config.path, config.revision, f"{role}.path")
        with quiet():  # labels of another number are for `build_model` to match or refuse
            return AutoConfig.from_pretrained(folder, num_labels=len(needs.labels))
    if config.architecture is not None:
        sizes = {"num_labels": len(needs.labels), **_sizes(config, needs, teacher)}
        return architecture_settings(config.architecture, role, sizes)
    assert isinstance(config, StudentConfig)
    assert teacher is not None
    settings = copy.deepcopy(teacher)
    settings.num_hidden_layers = config.layers if isinstance(config.layers, int) else len(config.layers or ())
    return settings


def architecture_settings(architecture: Mapping[str, Any], role: str, sizes: Mapping[str, Any]) -> Any:
    """The transformers config of an architecture, its own keys before `sizes`; KdcError where it makes none."""
    from transformers import CONFIG_MAPPING, AutoConfig

    keys = {**sizes, **architecture}
    model_type = keys.pop("model_type", None)
    if model_type is None:
        raise KdcError(f"{role}.architecture has no model_type", "add one, such as model_type: bert")
    if model_type not in CONFIG_MAPPING:
        known = did_you_mean(model_type, CONFIG_MAPPING)
        raise KdcError(f"{role}.architecture: no model_type is called '{model_type}'", known)
    with _architecture_problems(role):
        return AutoConfig.for_model(model_type, **keys)


def draw_model(settings: Any, task: Task, role: str) -> Any:
    """A model of these settings, randomly initialized; KdcError where they fit no model."""
    with _architecture_problems(role), quiet():
        return task.model_class().from_config(settings)


@contextmanager
def _architecture_problems(role: str) -> Iterator[None]:
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise KdcError(f"{role}.architecture: {one_line(error)}", "see the model's config in transformers") from error


def one_line(error: BaseException) -> str:
    return textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" ...")


def _sizes(config: ModelConfig, needs: Needs, teacher: Any | None) -> dict[str, Any]:
    """What a model from scratch takes from the data; a student's tokenizer is its teacher's unless it has its own."""
    if needs.task.modality == "text":
        own = getattr(config, "vocab_size", None)
        return {"vocab_size": own if own is not None or teacher is None else teacher.vocab_size}
    side, _, channels = np.asarray(needs.train["image"][0]).shape
    return {"image_size": needs.image_size or side, "num_channels": channels}
