"""Mutual learning: students that train together, each with what the others say in the place of a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdc.distill.batches import Collator, Part
from kdc.distill.distiller import Distiller, Values
from kdc.models.build import Built


class Cohort(nn.Module):
    """Zhang et al. 2018 (arXiv:1706.00384), equations 6 and 7: the loss of student k is that of its terms, those with
    a teacher averaged over all the others. All are updated at once, from answers to the same batch.

    Takes the place of a `Distiller`: what is audited and released is the first student's; its log has the others' terms
    as `<peer>/<term>`.
    """

    def __init__(self, distillers: Mapping[str, Distiller]) -> None:
        super().__init__()
        self.members = nn.ModuleDict(distillers)
        self.first = next(iter(distillers))

    @property
    def student(self) -> nn.Module:
        return self._member(self.first).student

    @property
    def progress(self) -> float:
        return self._member(self.first).progress

    @progress.setter
    def progress(self, share: float) -> None:
        for name in self.members:
            self._member(name).progress = share

    def forward(
        self, inputs: dict[str, dict[str, Tensor]], labels: Tensor | None, teacher: None = None, share: float = 1.0
    ) -> dict[str, Tensor]:
        said = {name: self._member(name).ask(inputs[name]) for name in self.members}
        losses = [
            self._member(name).add_up(self._parts(name, said, inputs[name], labels), share) for name in self.members
        ]
        return {"loss": torch.stack(losses).sum()}

    def parts(self, inputs: dict[str, dict[str, Tensor]], labels: Tensor | None, teacher: None = None) -> Values:
        """Raw and weighted value of every term of the first student."""
        said = {name: self._member(name).ask(inputs[name]) for name in self.members}
        return self._parts(self.first, said, inputs[self.first], labels)

    def drain(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for name in self.members:
            prefix = "" if name == self.first else f"{name}/"
            found |= {prefix + key: value for key, value in self._member(name).drain().items()}
        if found:
            found["loss"] = sum(value for key, value in found.items() if key.rpartition("/")[2] == "loss")
        return found

    def sums(self) -> dict[str, Any]:
        return {name: self._member(name).sums() for name in self.members}

    def restore(self, saved: Mapping[str, Any]) -> None:
        for name, sums in saved.items():
            self._member(name).restore(sums)

    def release(self) -> nn.Module:
        for name in self.members:
            self._member(name).release()
        return self.student

    def _parts(self, name: str, said: Mapping[str, Any], inputs: dict[str, Tensor], labels: Tensor | None) -> Values:
        own = self._member(name)
        seen = [
            own.weigh(said[name], inputs, labels, {signal: value.detach() for signal, value in said[other].items()})
            for other in self.members
            if other != name
        ]
        return {
            key: tuple(torch.stack([parts[key][i] for parts in seen]).mean() for i in (0, 1))  # type: ignore[misc]
            for key in seen[0]
        }

    def _member(self, name: str) -> Distiller:
        member = self.members[name]
        assert isinstance(member, Distiller)
        return member


class CohortCollator:
    """A part -> one batch with the inputs of every student, each cut by its own tokenizer."""

    def __init__(self, collators: Mapping[str, Collator]) -> None:
        self.collators = dict(collators)

    def __call__(self, part: Part) -> dict[str, Any]:
        batches = {name: collator(part) for name, collator in self.collators.items()}
        first = next(iter(batches.values()))
        return {**first, "inputs": {name: batch["inputs"] for name, batch in batches.items()}}


def cohort(students: Mapping[str, Built], terms: Mapping[str, Any]) -> Cohort:
    """Students by name, the one that ships first, on the same terms."""
    return Cohort({name: Distiller(built.model, terms, says=_shared(terms)) for name, built in students.items()})


def _shared(terms: Mapping[str, Any]) -> Sequence[str]:
    return sorted({signal for term in terms.values() for signal in term.asks_of_teacher})
