"""One variant against another on the same test rows: differences with their tests, churn, groups, flipped examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdc.data.examples import Examples
from kdc.measure.flips import worst_flips
from kdc.measure.paired import hits_difference, holm, resampled_difference
from kdc.measure.scores import Scores
from kdc.measure.slices import Slice
from kdc.record import Churn, Comparison, Difference, GroupChange, Role
from kdc.tasks.base import Task


def compare(
    task: Task,
    own: Scores,
    other: Scores,
    examples: Examples,
    slices: Sequence[Slice],
    *,
    against: str,
    role: Role,
    flips: int,
    show: bool,
) -> Comparison:
    """`own` against `other`, the variant called `against`. `show` lets flipped examples hold what the models read."""
    metrics = {name: metric_difference(task, name, own, other) for name in own.values}
    groups = [_group(part, own, other) for part in slices]
    return Comparison(
        against=against,
        role=role,
        metrics=metrics,
        churn=churn(own, other),
        groups=groups,
        flips=worst_flips(own, other, task.truth(examples), examples, most=flips, show=show),
        correction=_correct([*metrics.values(), *(group.difference for group in groups)]),
    )


def churn(own: Scores, other: Scores) -> Churn:
    """Rows that are right in one and wrong in the other, and rows answered otherwise (Milani Fard et al. 2016)."""
    right, was_right = own.hits == 1, other.hits == 1
    return Churn(
        n=len(right),
        right_to_wrong=int(np.sum(was_right & ~right)),
        wrong_to_right=int(np.sum(right & ~was_right)),
        changed=sum(a != b for a, b in zip(own.answers, other.answers, strict=True)),
    )


def metric_difference(task: Task, name: str, own: Scores, other: Scores) -> Difference:
    """A metric of `own` minus that of `other`, tested on the rows that both were scored on."""
    if name == task.hit_rate:
        return hits_difference(own.hits, other.hits)
    pair = own.resampled.get(name), other.resampled.get(name)
    differences = None if pair[0] is None or pair[1] is None else pair[0] - pair[1]
    return resampled_difference(own.values[name] - other.values[name], differences)


def _group(part: Slice, own: Scores, other: Scores) -> GroupChange:
    """Mean quality on these rows: of a class, its recall."""
    ours, theirs = own.hits[part.rows], other.hits[part.rows]
    return GroupChange(
        by=part.by,
        group=part.group,
        n=len(part.rows),
        value=float(ours.mean()),
        other=float(theirs.mean()),
        difference=hits_difference(ours, theirs),
    )


def _correct(differences: Sequence[Difference]) -> str:
    """Adjust the p values of one comparison for their number, and say how."""
    tested = [difference for difference in differences if difference.p is not None]
    for difference, adjusted in zip(tested, holm([d.p for d in tested if d.p is not None]), strict=True):
        difference.p_adjusted = adjusted
    return f"Holm over {len(tested)} tests" if tested else ""
