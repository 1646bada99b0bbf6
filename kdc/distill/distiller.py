"""The module that is trained: a student with its loss terms. Its forward returns the loss; only the student ships."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdc.distill.terms.base import Term


class Distiller(nn.Module):
    """`forward(inputs, labels, teacher)` -> the weighted sum of all terms.

    Between two calls of `drain` it adds up every term's raw value on the device, so that logging costs no sync a step.
    """

    def __init__(self, student: nn.Module, terms: Mapping[str, Term]) -> None:
        super().__init__()
        self.student = student
        self.terms = dict(terms)
        self._sums: dict[str, Tensor] = {}
        self._batches = 0

    def forward(
        self, inputs: dict[str, Tensor], labels: Tensor | None = None, teacher: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        outputs = self.student(**inputs)
        said = {"logits": outputs["logits"]}
        total = torch.zeros((), device=outputs["logits"].device)
        for key, term in self.terms.items():
            raw = term.loss(said, teacher or {}, labels)
            total = total + term.weight * raw
            self._sums[key] = self._sums.get(key, 0.0) + raw.detach()
        self._batches += 1
        return {"loss": total}

    def drain(self) -> dict[str, float]:
        """Means since the last call: `<term>` raw and `<term>_weighted`."""
        means: dict[str, Any] = {}
        for key, value in self._sums.items():
            means[key] = float(value) / self._batches
            means[f"{key}_weighted"] = means[key] * self.terms[key].weight
        self._sums, self._batches = {}, 0
        return means
