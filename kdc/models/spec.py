"""The YAML of `teacher` and `student`: where a model comes from. No torch."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from kdc.registry import Component

PLAIN_NETS: Mapping[str, str] = {"kdc-mlp": "image", "kdc-cnn": "image", "kdc-bilstm": "text", "kdc-textcnn": "text"}
"""kdc's own architectures by `model_type`, and what they read: `text` or `image`."""


class ModelConfig(Component):
    """A model from a hub id or local folder (`path`), or randomly initialized from a config (`architecture`).

    `architecture` is a transformers config by its `model_type` plus that config's own keys, or one of kdc's plain nets
    (`PLAIN_NETS`).
    """

    name: str
    path: str | None = None
    revision: str | None = None
    architecture: dict[str, Any] | None = None
    label_map: dict[str, str] = Field(default_factory=dict)
    """The checkpoint's label name -> the data's label name, for checkpoints that call theirs otherwise."""

    @property
    def from_scratch(self) -> bool:
        return self.architecture is not None


class TeacherConfig(ModelConfig):
    """The model to learn from. `train: auto` fine-tunes it when its head is new and uses it as it is otherwise.

    A text model from scratch gets a WordPiece tokenizer of `vocab_size` pieces, trained on the training split.
    `epochs`, `batch_size` and `learning_rate` replace those of the `train` group while the teacher trains.
    """

    vocab_size: PositiveInt = 8000
    train: Literal["auto", "always", "never"] = "auto"
    epochs: PositiveFloat | None = None
    batch_size: PositiveInt | None = None
    learning_rate: PositiveFloat | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> "TeacherConfig":
        if self.path is None and self.architecture is None:
            raise ValueError("give either path (hub id or folder) or architecture (random initialization)")
        if self.path is not None and self.architecture is not None:
            raise ValueError("has a path and an architecture; to load a checkpoint choose teacher=bert with its path")
        if self.architecture is not None and self.train == "never":
            raise ValueError("train: never makes no sense for a randomly initialized model")
        return self


class StudentConfig(ModelConfig):
    """The model that learns: a checkpoint, random initialization, or layers copied from the teacher.

    `layers` is how many teacher layers to keep (`pick` says which: spread uniformly, the top or the bottom ones), or an
    explicit list of layer numbers counted from 0. A text model from scratch reads what its teacher's tokenizer makes of
    texts, or with `vocab_size` has a WordPiece tokenizer of so many pieces, trained on the training split.
    """

    vocab_size: PositiveInt | None = None
    layers: PositiveInt | list[int] | None = None
    pick: Literal["uniform", "top", "bottom"] = "uniform"

    @model_validator(mode="after")
    def _one_origin(self) -> "StudentConfig":
        given = [name for name in ("path", "architecture", "layers") if getattr(self, name) is not None]
        if not given:
            raise ValueError("give one of path (hub id or folder), architecture (random initialization) or layers")
        if len(given) > 1:
            remedy = "choose student=distilbert with a path, student=layers for layers, or set the other to null"
            raise ValueError(f"has {' and '.join(given)}; {remedy}")
        if self.vocab_size is not None and self.architecture is None:
            origin = "a checkpoint brings its own" if self.path is not None else "layers read what their teacher reads"
            raise ValueError(f"vocab_size is for a tokenizer from scratch; {origin}: set vocab_size to null")
        return self
