"""Feature maps of convolutional nets: hints, attention transfer, neuron selectivity."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from kdc.distill.terms.base import TERMS, Batch, Term
from kdc.distill.terms.layer_map import LayerMap, state_pairs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdc.models.taps import Outline

STATES = "hidden_states"


class FeatureMaps(Term):
    """A term on pairs of feature maps, `[rows, channels, height, width]`; pairs add up.

    The papers compare maps of one size. Where the two of a pair differ in height or width, both are brought to the
    smaller one by adaptive average pooling.
    """

    reads: ClassVar[frozenset[str]] = frozenset({STATES})
    reads_of_teacher: ClassVar[frozenset[str]] = frozenset({STATES})
    layer_map: LayerMap = "uniform"

    def layers(self, student: Outline, teacher: Outline) -> Mapping[str, list[int]]:
        pairs = state_pairs(self.layer_map, student.shapes[STATES], teacher.shapes[STATES])
        return {STATES: sorted({theirs for _, theirs in pairs})}

    def problems(self, student: Outline, teacher: Outline | None) -> Iterator[str]:
        yield from map_problems(self.name, self.layer_map, student, teacher)

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        import torch
        from torch import nn

        from kdc.distill.terms.rows import full_precision, precise

        student, teacher = batch.student[STATES], batch.teacher[STATES]
        values = []
        with full_precision(student[-1]):
            for index, (ours, theirs) in enumerate(state_pairs(self.layer_map, student, teacher)):
                maps = precise(student[ours])
                regressed = head[index](maps) if isinstance(head, nn.ModuleList) else maps
                values.append(self.distance(regressed, precise(teacher[theirs])))
        return torch.stack(values).sum(dim=0)

    @abstractmethod
    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """`[rows]`: of one pair."""


@TERMS.register("hint")
class Hint(FeatureMaps):
    """½ · squared difference of the student's maps and the teacher's, the mean over channels and places.

    Romero et al. 2015 (FitNets, arXiv:1412.6550), equation 3, which sums where this takes the mean, so that one weight
    suits maps of all sizes. Where the numbers of channels differ, a 1x1 convolution of each pair's own regresses the
    teacher's from the student's: it is trained along and does not ship. The paper trains up to the hint first and
    distills afterwards: a matter of the weights' schedules (see loss=fitnet).
    """

    name: Literal["hint"]

    def head(self, student: Outline, teacher: Outline) -> nn.Module:
        from torch import nn

        pairs = state_pairs(self.layer_map, student.shapes[STATES], teacher.shapes[STATES])
        channels = [(student.width(STATES, i), teacher.width(STATES, j)) for i, j in pairs]
        return nn.ModuleList(nn.Identity() if i == j else nn.Conv2d(i, j, kernel_size=1) for i, j in channels)

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = of_one_size(student, teacher)
        return (student - teacher).square().flatten(1).mean(dim=1) / 2


@TERMS.register("attention_transfer")
class AttentionTransfer(FeatureMaps):
    """Distance of the student's spatial attention to the teacher's: where in the picture each of them is active.

    The attention of a place is the sum over channels of |activation|^power. The maps are scaled to length 1 as vectors,
    and the value is the length of their difference, which is not squared (the authors' code does that). Zagoruyko and
    Komodakis 2017 (arXiv:1612.03928), section 3.1, F_sum^p, and equation 2, whose β/2 is the weight here.
    """

    name: Literal["attention_transfer"]
    power: Annotated[float, Field(ge=1)] = 2.0

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        import torch

        from kdc.distill.terms.rows import unit

        ours, theirs = (maps.abs().pow(self.power).sum(dim=1, keepdim=True) for maps in (student, teacher))
        ours, theirs = of_one_size(ours, theirs)
        return torch.linalg.vector_norm(unit(ours.flatten(1)) - unit(theirs.flatten(1)), dim=1)


@TERMS.register("nst")
class NeuronSelectivity(FeatureMaps):
    """Squared maximum mean discrepancy between what the student's channels are selective to and the teacher's.

    Huang and Wang 2017 (arXiv:1707.01219), section 4: a channel is a sample, its map over all places scaled to length
    1; MMD² is the mean of k(t, t') over the teacher's channels plus that of k(s, s') less twice that of k(s, t), so the
    numbers of channels may differ. Kernels: `polynomial` (x'y)², which they found best, `linear` x'y, and `gaussian`
    exp(-|x - y|² / 2σ²), σ² being the mean of |s - t|² over a row's pairs, taken as a constant. Their λ/2 is the
    weight.
    """

    name: Literal["nst"]
    layer_map: LayerMap = "last"
    kernel: Literal["polynomial", "linear", "gaussian"] = "polynomial"

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        from kdc.distill.terms.rows import unit

        ours, theirs = (unit(maps.flatten(2)) for maps in of_one_size(student, teacher))  # [rows, channels, places]
        width = _squared_distances(ours, theirs).detach().mean(dim=(1, 2), keepdim=True)

        def similarity(x: Tensor, y: Tensor) -> Tensor:
            if self.kernel == "gaussian":
                values = (-_squared_distances(x, y) / (2 * width.clamp(min=1e-12))).exp()
            else:
                values = (x @ y.mT) ** (2 if self.kernel == "polynomial" else 1)
            return values.mean(dim=(1, 2))

        return similarity(theirs, theirs) + similarity(ours, ours) - 2 * similarity(ours, theirs)


def of_one_size(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller height and the smaller width of the two, pooled where they are larger."""
    from torch.nn.functional import adaptive_avg_pool2d

    size = min(ours.shape[2], theirs.shape[2]), min(ours.shape[3], theirs.shape[3])
    return adaptive_avg_pool2d(ours, size), adaptive_avg_pool2d(theirs, size)


def map_problems(name: str, layer_map: LayerMap, student: Outline, teacher: Outline | None) -> Iterator[str]:
    """What keeps the term `name` from comparing feature maps of these layers."""
    if teacher is None:
        return
    try:
        pairs = state_pairs(layer_map, student.shapes[STATES], teacher.shapes[STATES])
    except ValueError as error:
        yield str(error)
        return
    for model, layers in zip((student, teacher), zip(*pairs, strict=True), strict=True):
        for layer in layers:
            if len(shape := model.shapes[STATES][layer]) != 4:
                yield (
                    f"{name} compares feature maps [rows, channels, height, width], but layer {layer - 1} of "
                    f"{model.name} puts out {list(shape)}"
                )
                break


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """`[rows, a, places]` and `[rows, b, places]` -> `[rows, a, b]`."""
    return x.square().sum(dim=-1).unsqueeze(2) + y.square().sum(dim=-1).unsqueeze(1) - 2 * x @ y.mT
