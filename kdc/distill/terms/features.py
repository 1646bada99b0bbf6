"""Hidden states of texts: layer by layer, the embeddings, and patient distillation of the first token."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sized
from typing import TYPE_CHECKING, ClassVar, Literal

from kdc.distill.terms.base import TERMS, Batch, Term
from kdc.distill.terms.layer_map import LayerMap, Pair, state_pairs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdc.models.taps import Outline

STATES = "hidden_states"


class HiddenStates(Term):
    """A term on pairs of hidden states; where their widths differ, a linear of each pair's own leads the student's to
    the teacher's (a matrix without bias, as W_h of TinyBERT, arXiv:1909.10351, equation 8).

    `ranks` are the numbers of axes that the states may have: 3, `[rows, length, width]`, and 2, `[rows, width]`.
    """

    reads: ClassVar[frozenset[str]] = frozenset({STATES})
    reads_of_teacher: ClassVar[frozenset[str]] = frozenset({STATES})
    ranks: ClassVar[tuple[int, ...]] = (3,)

    @abstractmethod
    def pairs(self, student: Sized, teacher: Sized) -> list[Pair]:
        """Which hidden states (student's, teacher's) of so many are compared; 0 is the embeddings.

        Raises ValueError if there are none such.
        """

    def head(self, student: Outline, teacher: Outline) -> nn.Module:
        from kdc.distill.terms.rows import Projections

        pairs = self.pairs(student.shapes[STATES], teacher.shapes[STATES])
        return Projections([(student.width(STATES, i), teacher.width(STATES, j)) for i, j in pairs], bias=False)

    def layers(self, student: Outline, teacher: Outline) -> Mapping[str, list[int]]:
        return {STATES: sorted({theirs for _, theirs in self.pairs(student.shapes[STATES], teacher.shapes[STATES])})}

    def problems(self, student: Outline, teacher: Outline | None) -> Iterator[str]:
        if teacher is None:
            return
        try:
            pairs = self.pairs(student.shapes[STATES], teacher.shapes[STATES])
        except ValueError as error:
            yield str(error)
            return
        for i, j in pairs:
            ours, theirs = student.shapes[STATES][i], teacher.shapes[STATES][j]
            for model, shape in ((student, ours), (teacher, theirs)):
                if len(shape) not in self.ranks:
                    yield f"{self.name} compares hidden states of texts, but those of {model.name} are {list(shape)}"
                    return
            if self.by_token and ours[1:-1] != theirs[1:-1]:
                yield (
                    f"{self.name} compares position by position, but the hidden states of {student.name} and "
                    f"{teacher.name} have different ones ({list(ours)}, {list(theirs)})"
                )
                return

    def compared(self, batch: Batch, head: nn.Module | None) -> Iterator[tuple[Tensor, Tensor]]:
        """The student's states of each pair, projected, and the teacher's: both `[rows, length, width]`.

        Only the first token of each row if not `by_token`.
        """
        from kdc.distill.terms.rows import full_precision, precise

        assert head is not None
        student, teacher = batch.student[STATES], batch.teacher[STATES]
        tokens = slice(None) if self.by_token else slice(1)
        for index, (i, j) in enumerate(self.pairs(student, teacher)):
            ours, theirs = precise(student[i][:, tokens]), precise(teacher[j][:, tokens])
            with full_precision(ours):
                projected = head(index, ours)
            yield projected, theirs


@TERMS.register("hidden")
class Hidden(HiddenStates):
    """Distance of the student's hidden states to the teacher's, layer by layer; layers add up.

    `mse`: mean over tokens and width of the squared difference (Jiao et al. 2020, TinyBERT, arXiv:1909.10351,
    equation 8, and the sum over layers of equation 6 with all weights 1; a regression through a learned projection is
    due to Romero et al. 2015, FitNets, arXiv:1412.6550, equation 3). `cosine`: 1 - cos of the two states, mean over
    tokens (Sanh et al. 2019, DistilBERT, arXiv:1910.01108, section 2, there of the last layer). States are
    `[rows, length, width]`, or `[rows, width]` of plain nets.
    """

    by_token: ClassVar[bool] = True
    ranks: ClassVar[tuple[int, ...]] = (2, 3)
    name: Literal["hidden"]
    distance: Literal["mse", "cosine"] = "mse"
    layer_map: LayerMap = "uniform"

    def pairs(self, student: Sized, teacher: Sized) -> list[Pair]:
        return state_pairs(self.layer_map, student, teacher)

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        import torch
        from torch.nn import functional

        from kdc.distill.terms.rows import per_row

        values = []
        for ours, theirs in self.compared(batch, head):
            if self.distance == "mse":
                distances = (ours - theirs).square()
            else:
                distances = 1 - functional.cosine_similarity(ours, theirs, dim=-1).unsqueeze(-1)
            values.append(per_row(distances, batch.mask))
        return torch.stack(values).sum(dim=0)


@TERMS.register("embeddings")
class Embeddings(HiddenStates):
    """Mean over tokens and width of the squared difference of what the embedding layers put out,
    `[rows, length, width]`.

    Jiao et al. 2020 (TinyBERT, arXiv:1909.10351), equation 9.
    """

    by_token: ClassVar[bool] = True
    name: Literal["embeddings"]

    def pairs(self, student: Sized, teacher: Sized) -> list[Pair]:
        return [(0, 0)]

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        from kdc.distill.terms.rows import per_row

        [(ours, theirs)] = self.compared(batch, head)
        return per_row((ours - theirs).square(), batch.mask)


@TERMS.register("pkd")
class PatientKD(HiddenStates):
    """Squared distance of the first tokens' hidden states, each scaled to length 1; layers add up.

    Sun et al. 2019 (arXiv:1908.09355), equation 7. Its strategies are layer maps: `uniform` is PKD-Skip, `top` is
    PKD-Last. As there (section 3.2), the student's last layer is left out, since the logits that are read off it have a
    term of their own: of 6 layers and a teacher of 12 five learn, from layers 2, 4, 6, 8 and 10 or 7 to 11, counted
    from 1. Pairs named one by one are taken as they are.

    States are `[rows, length, width]`. Only what stands first is compared, [CLS] or what the tokenizer calls it, and
    tokenizers of encoders put that first however they cut the rest: they may differ. The students of the paper are as
    wide as the teacher; others are projected before they are scaled.
    """

    name: Literal["pkd"]
    layer_map: LayerMap = "uniform"

    def pairs(self, student: Sized, teacher: Sized) -> list[Pair]:
        pairs = state_pairs(self.layer_map, student, teacher)
        if isinstance(self.layer_map, list):
            return pairs
        if kept := [(ours, theirs) for ours, theirs in pairs if ours < len(student) - 1]:
            return kept
        raise ValueError(
            f"layer_map: {self.layer_map} leaves no layer to compare, since pkd leaves the student's last one out; "
            "name the pairs, or switch it off"
        )

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        import torch

        from kdc.distill.terms.rows import unit

        values = [(unit(ours) - unit(theirs)).square().sum(dim=(1, 2)) for ours, theirs in self.compared(batch, head)]
        return torch.stack(values).sum(dim=0)
