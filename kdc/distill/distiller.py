"""The module that is trained: a student with its loss terms. Its forward returns the loss; only the student ships."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdc import distributed
from kdc.distill.schedules import value_at
from kdc.distill.terms.base import Batch, Term
from kdc.errors import KdcError
from kdc.models.taps import Outline, Taps

Values = dict[str, tuple[Tensor, Tensor]]
"""Raw and weighted value of every term."""


class Distiller(nn.Module):
    """`forward(inputs, labels, teacher)` -> the weighted sum of all terms.

    `progress` is set by who trains it. Between two calls of `drain` it adds up every term's values on the device, so
    that logging costs no sync a step. `outlines` are the student's and the teacher's, for terms with parts of their
    own (projections); terms without a teacher need none. `says` are signals to bring that others read.
    """

    def __init__(
        self,
        student: nn.Module,
        terms: Mapping[str, Term],
        outlines: tuple[Outline, Outline] | None = None,
        says: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.student = student
        self.terms = dict(terms)
        heads = {key: term.head(*outlines) for key, term in self.terms.items()} if outlines else {}
        self.heads = nn.ModuleDict({key: head for key, head in heads.items() if head is not None})
        self.progress = 0.0
        self._taps = Taps(student, {*says, *(signal for term in self.terms.values() for signal in term.reads)})
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def forward(
        self,
        inputs: dict[str, Tensor],
        labels: Tensor | None = None,
        teacher: Mapping[str, Any] | None = None,
        share: float = 1.0,
    ) -> dict[str, Tensor]:
        """`share` is by how much this part's mean counts in the mean over its batch."""
        return {"loss": self.add_up(self.parts(inputs, labels, teacher), share)}

    def parts(
        self, inputs: dict[str, Tensor], labels: Tensor | None = None, teacher: Mapping[str, Any] | None = None
    ) -> Values:
        """Raw and weighted value of every term on one batch."""
        return self.weigh(self.ask(inputs), inputs, labels, teacher)

    def add_up(self, parts: Values, share: float) -> Tensor:
        """The loss, with its parts added to what `drain` will say."""
        total = torch.stack([weighted for _, weighted in parts.values()]).sum() * share
        self._add("loss", total)
        for key, (raw, weighted) in parts.items():
            self._add(key, raw * share)
            self._add(f"{key}_weighted", weighted * share)
        return total

    def weigh(
        self, said: Mapping[str, Any], inputs: Mapping[str, Tensor], labels: Tensor | None, teacher: Any
    ) -> Values:
        """Raw and weighted value of every term that weighs anything now, of what the student `said`."""
        batch = Batch(
            student=said,
            teacher=teacher or {},
            labels=labels,
            mask=inputs["attention_mask"].bool() if "attention_mask" in inputs else None,
            progress=self.progress,
        )
        weights = {key: value_at(term.weight, batch) for key, term in self.terms.items()}
        heard = [key for key, weight in weights.items() if isinstance(weight, Tensor) or weight != 0]
        parts = {}
        for key in heard or weights:
            head = self.heads[key] if key in self.heads else None  # noqa: SIM401  (a ModuleDict has no get)
            values = self.terms[key].loss(batch, head)
            parts[key] = values.mean(), (weights[key] * values).mean()
        return parts

    def drain(self) -> dict[str, float]:
        """Means since the last call, over all processes: `loss`, `<term>` raw and `<term>_weighted`; a term's over the
        batches in which it weighed anything."""
        totals = self._over_processes().tolist()
        found = {name: total / self._counts[name] for name, total in zip(self._sums, totals, strict=True)}
        self._sums, self._counts = {}, {}
        return found

    def sums(self) -> dict[str, Any]:
        """What `drain` will need, for a checkpoint: `restore` takes it again. The mean over all processes."""
        sums = dict(zip(self._sums, self._over_processes().tolist(), strict=True))
        return {"counts": dict(self._counts), "sums": sums}

    def restore(self, saved: Mapping[str, Any]) -> None:
        device = next(self.student.parameters()).device
        self._sums = {name: torch.tensor(total, device=device) for name, total in saved["sums"].items()}
        self._counts = dict(saved["counts"])

    def release(self) -> nn.Module:
        """The student alone, as it ships."""
        self._taps.close()
        return self.student

    def _over_processes(self) -> Tensor:
        """The sums, averaged over the processes that train together."""
        sums = torch.stack(list(self._sums.values())) if self._sums else torch.zeros(0)
        return distributed.total(sums) / distributed.world_size() if self._sums else sums

    def _add(self, name: str, value: Tensor) -> None:
        value = value.detach().float()
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts[name] = self._counts.get(name, 0) + 1

    def ask(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Any]:
        """The student's signals; KdcError where one that a term reads is missing."""
        said = self._taps(inputs)
        for key, term in self.terms.items():
            if missing := sorted(term.reads - said.keys()):
                raise KdcError(
                    f"loss.terms.{key} reads {missing[0]}, which the student does not put out",
                    f"switch it off: loss.terms.{key}=null",
                )
        return said
