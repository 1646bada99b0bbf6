"""What text and image classification share: one graph, one label a row, accuracy and F1."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdc.data.examples import Examples, Splits
from kdc.errors import KdcError
from kdc.export.base import Arrays, Callables, Graph, Port, Signature
from kdc.tasks.base import Encoded, Encoder, Task

if TYPE_CHECKING:
    from torch import Tensor, nn


class Classification(Task):
    """One label of a closed set for every row."""

    metrics: ClassVar[Mapping[str, bool]] = {"accuracy": True, "f1": True, "f1_macro": True, "mcc": True}
    hit_rate: ClassVar[str | None] = "accuracy"

    def check(self, splits: Splits, metric: str) -> None:
        train = splits["train"]
        for column in self.columns:
            if column not in train:
                raise KdcError(
                    f"{self.name} needs a column '{column}', the data has {', '.join(train.columns)}",
                    f"map it: dataset.columns.{column}=NAME",
                )
        if len(train.labels) < 2 or len(np.unique(train["label"])) < 2:
            raise KdcError("the training split has rows of one class only", f"{self.name} needs two or more")
        if metric == "f1" and len(train.labels) != 2:
            raise KdcError(f"dataset.metric: f1 needs two labels, the data has {len(train.labels)}", "use f1_macro")

    @abstractmethod
    def inputs(self, encoder: Encoder) -> tuple[Port, ...]:
        """The ports that this encoder fills."""

    def graphs(self, model: nn.Module, encoder: Encoder, sample: Examples) -> list[Graph]:
        from kdc.export.modules import SelectOutputs

        signature = Signature(
            name="forward",
            inputs=self.inputs(encoder),
            outputs=(Port("logits", "float32", ("batch", len(sample.labels))),),
            limits={"length": max_length} if (max_length := getattr(encoder, "max_length", None)) else {},
        )
        batch = encoder.collate(encoder.encode(sample))
        return [Graph(signature, SelectOutputs(model, signature), batch, prefix="model.")]

    def predict(self, graphs: Callables, batch: Arrays) -> Arrays:
        return graphs["forward"](batch)

    def targets(self, examples: Examples, encoded: Encoded) -> np.ndarray:
        labels: np.ndarray = examples["label"]
        return labels.astype(np.int64, copy=False)

    def truth(self, examples: Examples) -> list[Any]:
        return [examples.labels[i] for i in examples["label"]]

    def answers(self, outputs: Arrays, labels: Sequence[str]) -> list[Any]:
        return [labels[i] for i in outputs["logits"].argmax(axis=-1)]

    def score(self, outputs: Arrays, examples: Examples) -> dict[str, float]:
        """Accuracy, macro-averaged F1, Matthews correlation; F1 of the second label where there are two."""
        from sklearn import metrics

        truth, guess = examples["label"], outputs["logits"].argmax(axis=-1)
        scores = {
            "accuracy": metrics.accuracy_score(truth, guess),
            "f1_macro": metrics.f1_score(truth, guess, average="macro", zero_division=0.0),
            "mcc": metrics.matthews_corrcoef(truth, guess) if len({*truth, *guess}) > 1 else 0.0,
        }
        if len(examples.labels) == 2:
            scores["f1"] = metrics.f1_score(truth, guess, zero_division=0.0)
        return {name: float(value) for name, value in scores.items()}

    def hits(self, outputs: Arrays, examples: Examples) -> np.ndarray:
        return (outputs["logits"].argmax(axis=-1) == examples["label"]).astype(np.float64)

    def confidences(self, outputs: Arrays) -> np.ndarray:
        """The largest softmax probability of each row."""
        logits = outputs["logits"].astype(np.float64)
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        largest: np.ndarray = shares.max(axis=-1) / shares.sum(axis=-1)
        return largest

    def groups(self, examples: Examples) -> dict[str, list[str]]:
        return {"class": self.truth(examples)}

    def evidence(self, outputs: Mapping[str, Tensor], answer: Any, labels: Sequence[str]) -> Tensor:
        """The logit of the answer."""
        return outputs["logits"][:, list(labels).index(answer)]

    def rescore(self, outputs: Arrays, examples: Examples, draws: np.ndarray) -> dict[str, np.ndarray]:
        """The metrics of `score`, from how often each class is true, guessed and both in each draw.

        Matthews correlation by Gorodkin 2004 (equation 8): (c·s - t·g) / sqrt((s² - t·t)(s² - g·g)), with c right ones
        of s rows, t rows of each true class and g of each guessed one; 0 where it is undefined.
        """
        truth, guess = examples["label"], outputs["logits"].argmax(axis=-1)
        classes = len(examples.labels)
        rows = draws.shape[1]

        def counts(label: np.ndarray) -> np.ndarray:
            """`[draws, classes]`; rows whose label is `classes` are left out."""
            cells = label[draws] + (classes + 1) * np.arange(len(draws))[:, None]
            return np.bincount(cells.ravel(), minlength=len(draws) * (classes + 1)).reshape(-1, classes + 1)[:, :-1]

        true, guessed, both = counts(truth), counts(guess), counts(np.where(truth == guess, truth, classes))
        right = both.sum(axis=1)
        f1 = 2 * both / np.maximum(true + guessed, 1)  # [draws, classes]
        spread = np.sqrt((rows**2 - (true**2).sum(axis=1)) * (rows**2.0 - (guessed**2).sum(axis=1)))
        covariance = right * rows - (true * guessed).sum(axis=1)
        scores = {
            "accuracy": right / rows,
            "f1_macro": f1.sum(axis=1) / np.maximum((true + guessed > 0).sum(axis=1), 1),
            "mcc": np.divide(covariance, spread, out=np.zeros(len(draws)), where=spread > 0),
        }
        if classes == 2:
            scores["f1"] = f1[:, 1]
        return scores
