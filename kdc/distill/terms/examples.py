"""Relations between the examples of a batch: distances, angles, similarities.

They take in the rows of all processes, so that each process computes the same value, that of the whole batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from kdc.distill.terms.base import TERMS, Batch, Term
from kdc.distill.terms.maps import STATES, map_problems

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdc.models.taps import Outline

FEATURES = "features"


class BetweenExamples(Term):
    """A term that compares how examples lie to one another for the student and for the teacher.

    Both see an example as one vector, by default the features `[rows, width]`; the widths may differ.
    """

    reads: ClassVar[frozenset[str]] = frozenset({FEATURES})
    reads_of_teacher: ClassVar[frozenset[str]] = frozenset({FEATURES})
    by_row: ClassVar[bool] = False

    def problems(self, student: Outline, teacher: Outline | None) -> Iterator[str]:
        yield from feature_problems(self.name, student, teacher)

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        from kdc.distill.terms.rows import full_precision, gathered, precise

        ours, theirs = (gathered(precise(self.vectors(signals))) for signals in (batch.student, batch.teacher))
        with full_precision(ours):
            return self.difference(ours, theirs)

    def vectors(self, signals: Mapping[str, Any]) -> Tensor:
        """`[rows, width]`: what is compared of a model."""
        features: Tensor = signals[FEATURES]
        return features

    @abstractmethod
    def difference(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Of the relations between the rows of either, a scalar; 0 where there are too few rows for any."""


@TERMS.register("rkd_distance")
class RelativeDistances(BetweenExamples):
    """Huber loss of the distances between every two examples, student's against teacher's.

    Park et al. 2019 (RKD, arXiv:1904.05068), equations 4 to 7: distances are divided by their mean, each model's by its
    own. The value is the mean over all pairs of different examples where equation 6 sums, whatever the batch.
    """

    name: Literal["rkd_distance"]

    def difference(self, student: Tensor, teacher: Tensor) -> Tensor:
        return _huber(_relative_distances(student), _relative_distances(teacher))


@TERMS.register("rkd_angle")
class Angles(BetweenExamples):
    """Huber loss of the angles that every three examples form, student's against teacher's.

    Park et al. 2019 (RKD, arXiv:1904.05068), equations 7 to 9: the cosine of the angle at one of three different
    examples, 0 where two of them coincide; the mean over all triplets where equation 9 sums. It holds several times
    rows² · (rows + width) numbers, rows being those of all processes: some 0.3 GB for 128 of width 768, but 30 GB for
    1,024.
    """

    name: Literal["rkd_angle"]

    def difference(self, student: Tensor, teacher: Tensor) -> Tensor:
        return _huber(_cosines(student), _cosines(teacher))


class SimilarityPreserving(BetweenExamples):
    """Squared difference of the similarities between every two examples, student's against teacher's."""

    def difference(self, student: Tensor, teacher: Tensor) -> Tensor:
        from kdc.distill.terms.rows import unit

        return (unit(student @ student.T) - unit(teacher @ teacher.T)).square().mean()


@TERMS.register("similarity")
class Similarity(SimilarityPreserving):
    """Squared difference of the similarities between every two examples, student's against teacher's, by features.

    Tung and Mori 2019 (arXiv:1907.09682), equations 1 to 4: the inner products of an example with all of the batch,
    scaled to length 1 together; their squared differences are summed and divided by the number of pairs b².
    """

    name: Literal["similarity"]


@TERMS.register("map_similarity")
class MapSimilarity(SimilarityPreserving):
    """The same as `similarity` by the last feature maps `[rows, channels, height, width]`, each taken as one vector:
    what Tung and Mori 2019 (arXiv:1907.09682) compare."""

    reads: ClassVar[frozenset[str]] = frozenset({STATES})
    reads_of_teacher: ClassVar[frozenset[str]] = frozenset({STATES})
    name: Literal["map_similarity"]

    def layers(self, student: Outline, teacher: Outline) -> Mapping[str, list[int]]:
        return {STATES: [len(teacher.shapes[STATES]) - 1]}

    def problems(self, student: Outline, teacher: Outline | None) -> Iterator[str]:
        yield from map_problems(self.name, "last", student, teacher)

    def vectors(self, signals: Mapping[str, Any]) -> Tensor:
        maps: Tensor = signals[STATES][-1]
        return maps.flatten(1)


def feature_problems(name: str, student: Outline, teacher: Outline | None) -> Iterator[str]:
    """What keeps the term `name` from taking a row's features for one vector."""
    for model in (student, teacher):
        if model is not None and len(shape := model.shapes[FEATURES][0]) != 2:
            yield f"{name} compares examples by a vector each, but the features of {model.name} are {list(shape)}"


def _relative_distances(features: Tensor) -> Tensor:
    """Between different examples, over their mean: `[rows · (rows - 1)]`."""
    import torch

    # by inner products, as is usual from 26 rows on, neighbours' distances would be inexact
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")[_different(features)]
    return distances / (distances.sum() / max(1, len(distances))).clamp(min=1e-12)


def _cosines(features: Tensor) -> Tensor:
    """At one of three different examples, between the other two: `[rows · (rows - 1) · (rows - 2)]`."""
    from kdc.distill.terms.rows import unit

    directions = unit(features.unsqueeze(0) - features.unsqueeze(1))  # [from, to, width]
    different = _different(features)
    triplets = different.unsqueeze(0) & different.unsqueeze(1) & different.unsqueeze(2)
    return (directions @ directions.mT)[triplets]


def _different(features: Tensor) -> Tensor:
    import torch

    return ~torch.eye(len(features), dtype=torch.bool, device=features.device)


def _huber(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the squared difference up to 1 and the difference less a half beyond; the mean, 0 of none."""
    from torch.nn.functional import smooth_l1_loss

    return smooth_l1_loss(student, teacher, reduction="sum") / max(1, len(student))
