"""Penalties on the student's weights that prepare it for pruning."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from kdc.distill.terms.base import TERMS, Batch, Term

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdc.models.taps import Outline


class Penalty(Term):
    """A term on the student's weights alone: those of linears `[outputs, inputs]` and convolutions `[outputs, inputs,
    height, width]`, neither biases nor embeddings.

    Weights count whose module's name matches one of the patterns `include` and none of `exclude`, in which * stands for
    any characters (`*.attention.*`).
    """

    reads: ClassVar[frozenset[str]] = frozenset({"weights"})
    by_row: ClassVar[bool] = False
    include: list[str] = Field(default_factory=lambda: ["*"])
    exclude: list[str] = Field(default_factory=list)

    def problems(self, student: Outline, teacher: Outline | None) -> Iterator[str]:
        names = student.matrices
        called = f"{', '.join(names[:3])}, ..." if len(names) > 3 else ", ".join(names)
        unmatched = [
            f"{key}: no weights of {student.name} are called '{pattern}'; they are {called}"
            for key, patterns in (("include", self.include), ("exclude", self.exclude))
            for pattern in patterns
            if not _matching(names, [pattern])
        ]
        yield from unmatched
        if not unmatched and not self.chosen(names):
            yield f"{self.name}: include and exclude leave none of the weights of {student.name}"

    def chosen(self, names: Collection[str]) -> list[str]:
        """The names that count."""
        left_out = _matching(names, self.exclude)
        return [name for name in _matching(names, self.include) if name not in left_out]

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        import torch

        from kdc.distill.terms.rows import precise

        weights = batch.student["weights"]
        chosen = [precise(weights[name]) for name in self.chosen(weights)]
        return torch.stack([self.penalty(weight) for weight in chosen]).sum() / sum(w.numel() for w in chosen)

    @abstractmethod
    def penalty(self, weight: Tensor) -> Tensor:
        """The sum over one weight, `[outputs, inputs, ...]`."""


@TERMS.register("l1")
class Lasso(Penalty):
    """Mean |w| over the chosen weights: pushes single weights to 0.

    Tibshirani 1996 (Regression shrinkage and selection via the lasso), equation 1 in its Lagrangian form; as a mean, so
    that one weight of the term suits models of all sizes.
    """

    name: Literal["l1"]

    def penalty(self, weight: Tensor) -> Tensor:
        return weight.abs().sum()


@TERMS.register("group_lasso")
class GroupLasso(Penalty):
    """Σ_g √|g| · ‖w_g‖₂ over groups g of |g| weights, divided by the number of all chosen weights: pushes whole groups
    to 0, which can then be cut out.

    Yuan and Lin 2006 (Model selection and estimation in regression with grouped variables), equation 2.1 with
    K_g = |g| · I. `groups`: the weights of each of a layer's `outputs` (neurons, channels), or of each of its `inputs`.
    """

    name: Literal["group_lasso"]
    groups: Literal["outputs", "inputs"] = "outputs"

    def penalty(self, weight: Tensor) -> Tensor:
        import torch

        groups = (weight if self.groups == "outputs" else weight.transpose(0, 1)).flatten(1)
        return torch.linalg.vector_norm(groups, dim=1).sum() * groups.shape[1] ** 0.5


def _matching(names: Collection[str], patterns: list[str]) -> list[str]:
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
