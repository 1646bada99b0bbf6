"""Rules on metrics: paired on the same test rows against a baseline, or absolute. Nothing is run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from kdc.errors import KdcError, did_you_mean
from kdc.gate.answers import Answers, joined, read_answers
from kdc.gate.change import Change, metric, paired_change
from kdc.gate.report import Result
from kdc.gate.rules import PRIMARY, SUBJECTS, MetricRule
from kdc.gate.side import Side
from kdc.gate.units import AUTO
from kdc.measure.decision import decide
from kdc.report.table import is_share, primary, score

RETRAINED, QUANTIZED = 0.015, 0.005
"""What `auto` lets a share drop. Two trainings answer some 6% of the rows otherwise, so that half a point of two
thousand rows cannot be shown of them; of one set of weights in two precisions it can."""
WILD = 0.2
"""A share may not be allowed to drop by more: who writes 0.5 means 0.5pp."""


def quality_results(rules: Mapping[str, MetricRule], candidate: Side, baseline: Side) -> list[Result]:
    """Every limit of every rule on a metric. KdcError where the two cannot be compared at all."""
    answers = None
    if candidate.predictions and baseline.predictions and any(rule.max_drop is not None for rule in rules.values()):
        own = read_answers(candidate.predictions)
        answers = own, joined(own, read_answers(baseline.predictions), baseline=str(baseline.place))
    return [
        result for subject, rule in rules.items() for result in _results(subject, rule, candidate, baseline, answers)
    ]


def _results(
    subject: str, rule: MetricRule, candidate: Side, baseline: Side, answers: tuple[Answers, Answers] | None
) -> Iterator[Result]:
    name = _resolved(subject, candidate)
    now = metric(candidate, name).value
    if rule.max_drop is not None:
        margin = _margin(subject, name, rule.max_drop, candidate, baseline)
        yield _relative(name, margin, candidate, baseline, answers)
    if rule.min is not None:
        yield _absolute(subject, name, now, "min", rule.min, kept=now >= rule.min)
    if rule.max is not None:
        yield _absolute(subject, name, now, "max", rule.max, kept=now <= rule.max)


def _relative(
    name: str, margin: float, candidate: Side, baseline: Side, answers: tuple[Answers, Answers] | None
) -> Result:
    now, before = metric(candidate, name).value, metric(baseline, name).value
    unit = " pp" if is_share(name) else ""
    result = Result(
        rule=f"{name}.max_drop",
        limit=_number(name, margin) + unit,
        baseline=score(name, before),
        now=score(name, now),
        change=_number(name, now - before, "+") + unit,
        outcome="informational",
        why=f"{baseline.place} has no predictions, so {name} is not compared row by row",
    )
    if answers is None:
        return result
    change = paired_change(name, candidate, baseline, *answers)
    harm, low, high = change.harm
    outcome = decide(low, high, margin)
    bounds = f"{_number(name, change.low, '+')} to {_number(name, change.high, '+')}"
    numbers = {"change": f"{result.change} ({bounds})", "estimate": harm, "low": low, "high": high}
    if change.identical:
        return result.model_copy(
            update={"outcome": "pass", "why": f"all {change.rows:,} rows are answered alike", "estimate": 0.0}
        )
    if outcome == "inconclusive" and margin < change.resolution:
        return result.model_copy(
            update={**numbers, "outcome": "refused", "why": f"{name}: {_unresolved(name, change)}"}
        )
    became = f"got {'worse' if harm > 0 else 'better'} by {_points(name, abs(harm))}, from {result.baseline} to"
    if float(_number(name, harm)) == 0:
        became = "stayed at"
    why = f"{name} {became} {result.now} (95% bounds {bounds}); {_points(name, margin)} are allowed"
    return result.model_copy(update={**numbers, "outcome": outcome, "why": why})


def _absolute(subject: str, name: str, now: float, limit: str, bound: float, *, kept: bool) -> Result:
    if is_share(name) and bound > 1:
        raise KdcError(f"{subject}.{limit}: {name} is a share, never above 1", f"write it in %: {bound:g}%")
    wanted = f"at {'least' if limit == 'min' else 'most'} {score(name, bound)}"
    return Result(
        rule=f"{name}.{limit}",
        limit=score(name, bound),
        now=score(name, now),
        outcome="pass" if kept else "fail",
        why=f"{name} is {score(name, now)}, {wanted} is wanted",
    )


def _unresolved(name: str, change: Change) -> str:
    rows = f"{change.rows:,} row{'s' if change.rows != 1 else ''}"
    if not math.isfinite(change.resolution):
        return f"{rows} cannot show any margin to be kept; test on more rows"
    return (
        f"{rows} with {change.churn:.1%} churn resolve {_points(name, change.resolution)} at best; "
        "ask for a max_drop of at least that, or test on more rows"
    )


def _margin(subject: str, name: str, max_drop: float | str, candidate: Side, baseline: Side) -> float:
    if max_drop == AUTO:
        if not is_share(name):
            raise KdcError(f"{subject}.max_drop: auto is for shares, {name} is none", f"write {name}.max_drop=NUMBER")
        return QUANTIZED if candidate.weights is not None and candidate.weights == baseline.weights else RETRAINED
    margin = float(max_drop)
    if is_share(name) and margin > WILD:
        raise KdcError(
            f"{subject}.max_drop: {100 * margin:g} points are no margin for {name}",
            f"half a percentage point is written {subject}.max_drop=0.5pp",
        )
    return margin


def _resolved(subject: str, candidate: Side) -> str:
    """The metric that a rule is about."""
    quality = candidate.variant.quality
    if quality is None:
        raise KdcError(f"the quality of {candidate.variant.name} was not measured", f"leave {subject} out")
    if subject == PRIMARY:
        return primary(quality)[0]
    if subject not in quality.metrics:
        hint = did_you_mean(subject, [*quality.metrics, PRIMARY, *SUBJECTS])
        raise KdcError(f"{subject}: {candidate.variant.name} was not measured by that", hint)
    return subject


def _points(name: str, value: float) -> str:
    """A difference of a metric, in a sentence: `0.57 points` of a share, else a number."""
    return _number(name, value) + (" points" if is_share(name) else "")


def _number(name: str, value: float, sign: str = "") -> str:
    return f"{100 * value:{sign}.2f}" if is_share(name) else f"{value:{sign}.4g}"
