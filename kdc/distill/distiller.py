"""The module that is trained: a student with its loss terms. Its forward returns the loss; only the student ships."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdc.distill.terms.base import Term
from kdc.errors import KdcError

SWITCHES = {"hidden_states": "output_hidden_states", "attentions": "output_attentions"}
"""Signals that a `transformers` model returns only when asked, and how it is asked."""


class Distiller(nn.Module):
    """`forward(inputs, labels, teacher)` -> the weighted sum of all terms.

    Between two calls of `drain` it adds up every term's raw value on the device, so that logging costs no sync a step.
    """

    def __init__(self, student: nn.Module, terms: Mapping[str, Term]) -> None:
        super().__init__()
        self.student = student
        self.terms = dict(terms)
        self._read = {signal: key for key, term in self.terms.items() for signal in term.reads}
        takes = inspect.signature(student.forward).parameters
        any_name = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in takes.values())
        wanted = [SWITCHES[signal] for signal in self._read if signal in SWITCHES]
        self._asked = {switch: True for switch in wanted if any_name or switch in takes}
        if "output_attentions" in self._asked:
            student.set_attn_implementation("eager")  # type: ignore[operator]  # the others never form the matrix
        self._sums: dict[str, Tensor] = {}
        self._batches = 0

    def forward(
        self, inputs: dict[str, Tensor], labels: Tensor | None = None, teacher: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        outputs = self.student(**inputs, **self._asked)
        said = {signal: outputs.get(signal) for signal in self._read}
        for signal, value in said.items():
            if value is None:
                key = self._read[signal]
                raise KdcError(
                    f"loss.terms.{key} reads {signal}, which the student does not put out",
                    f"switch it off: loss.terms.{key}=null",
                )
        total = torch.zeros((), device=next(iter(inputs.values())).device)
        for key, term in self.terms.items():
            raw = term.loss(said, teacher or {}, labels if term.needs_labels else None)
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
