"""What a task is: everything about a kind of model that training, export and measurement must not know themselves.

A task has no settings and no state. Its encoder (tokenizer or image preprocessing) is what it needs besides the model,
ships with the artifact, and works without torch or transformers, so that a serving process starts fast.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdc.data.examples import Examples, Splits
from kdc.export.base import Arrays, Callables, Graph
from kdc.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

Encoded = list[dict[str, Any]]
"""Model inputs example by example, not yet padded."""


class Encoder(ABC):
    """Examples -> padded arrays. Frozen once built; `save` writes files that plain `transformers` reads too."""

    @abstractmethod
    def encode(self, examples: Examples) -> Encoded:
        """Model inputs of every row, unpadded."""

    @abstractmethod
    def length(self, encoded: Mapping[str, Any]) -> int:
        """What batches are bucketed by: tokens of a text; 1 where all inputs are equally large."""

    @abstractmethod
    def collate(self, encoded: Sequence[Mapping[str, Any]], *, length: int | None = None) -> Arrays:
        """One batch, padded to its longest member (or to `length`)."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what serving needs into `folder`."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Encoder:
        """The encoder that `save` wrote, or that a checkpoint folder came with."""


class Task(ABC):
    """One kind of model. `metrics` maps a metric's name to whether more is better; the first is the primary one."""

    name: ClassVar[str]
    modality: ClassVar[str]
    """`text` or `image`: what the examples and the models must both be."""
    encoder: ClassVar[type[Encoder]]
    metrics: ClassVar[Mapping[str, bool]]
    columns: ClassVar[tuple[str, ...]]
    """What a row must have: the columns that the model reads, and those that hold what it should answer."""
    hit_rate: ClassVar[str | None] = None
    """The metric, if there is one, that is the share of rows whose `hits` are 1: its tests are exact."""

    @abstractmethod
    def check(self, splits: Splits, metric: str) -> None:
        """Refuse data that this task cannot learn from or `metric` cannot judge (KdcError); no model is loaded yet."""

    @abstractmethod
    def model_class(self) -> Any:
        """The transformers Auto class that loads such models."""

    @abstractmethod
    def graphs(self, model: nn.Module, encoder: Encoder, sample: Examples) -> list[Graph]:
        """The graphs to lower, with `sample` rows as tracing inputs."""

    @abstractmethod
    def predict(self, graphs: Callables, batch: Arrays) -> Arrays:
        """Run the loop over the graphs (one call, greedy decoding, ...): named outputs, first axis the examples."""

    @abstractmethod
    def targets(self, examples: Examples, encoded: Encoded) -> np.ndarray | Sequence[np.ndarray]:
        """The labels that loss terms read, int64: an array over the rows, or one a row where lengths differ.

        `encoded` are the model's inputs of these rows, for labels that belong to tokens.
        """

    @abstractmethod
    def truth(self, examples: Examples) -> list[Any]:
        """What `answers` should be, example by example."""

    @abstractmethod
    def answers(self, outputs: Arrays, labels: Sequence[str]) -> list[Any]:
        """What a user reads, example by example: a label name, a text."""

    @abstractmethod
    def score(self, outputs: Arrays, examples: Examples) -> dict[str, float]:
        """Every metric of `metrics` on these outputs."""

    @abstractmethod
    def hits(self, outputs: Arrays, examples: Examples) -> np.ndarray:
        """Quality example by example, float `[rows]`: 1/0 for right and wrong. For paired tests and flips."""

    def confidences(self, outputs: Arrays) -> np.ndarray | None:
        """How probable each answer is in the model's own eyes, `[rows]` in [0, 1]; None where it does not say."""
        return None

    def groups(self, examples: Examples) -> dict[str, list[str]]:
        """Groups that a row belongs to by what should be answered, `{"class": [...]}`, one name a row."""
        return {}

    def evidence(self, outputs: Mapping[str, Tensor], answer: Any, labels: Sequence[str]) -> Tensor | None:
        """How strongly each row of the one graph's `outputs` speaks for `answer`: `[rows]`, differentiable.

        For attributions of the input; a task that does not override it has none.
        """
        return None

    def rescore(self, outputs: Arrays, examples: Examples, draws: np.ndarray) -> dict[str, np.ndarray]:
        """Every metric `[draws]` on resampled rows, `draws` being row numbers `[draws, rows]`: for intervals.

        Override where the metrics can be had for all draws at once.
        """
        scores = [
            self.score({name: values[rows] for name, values in outputs.items()}, examples.select(rows))
            for rows in draws
        ]
        return {name: np.array([score[name] for score in scores]) for name in scores[0]}


TASKS: Registry[Task] = Registry("task", ["kdc.tasks.text_classification", "kdc.tasks.image_classification"])
