"""Rules on bytes: of the files that ship, and of memory at its peak. Both are compared with what the record says."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kdc.errors import KdcError
from kdc.gate.report import Result
from kdc.gate.rules import SizeRule
from kdc.gate.side import Side
from kdc.record import Variant
from kdc.report.table import size


def bytes_results(rule: SizeRule, candidate: Side, baseline: Side) -> list[Result]:
    """The size of the artifact, which is the same wherever it is measured."""
    return list(_results("bytes", rule, candidate, baseline, _shipped, ""))


def memory_results(rule: SizeRule, candidate: Side, baseline: Side) -> list[Result]:
    """Peak memory of the processes that were timed: compared only if both runs were made on equal machines."""
    alike = candidate.machine is not None and candidate.machine == baseline.machine
    unlike = "" if alike else f"{baseline.place} is of another machine, so memory is not compared"
    return list(_results("memory", rule, candidate, baseline, _peak, unlike))


def _shipped(variant: Variant) -> int | None:
    return variant.artifact.bytes if variant.artifact else None


def _peak(variant: Variant) -> int | None:
    return variant.memory.peak_rss_bytes if variant.memory else None


def _results(
    subject: str,
    rule: SizeRule,
    candidate: Side,
    baseline: Side,
    bytes_of: Callable[[Variant], int | None],
    unlike: str,
) -> Iterator[Result]:
    """`unlike` says why the two cannot be compared, if they cannot."""
    now = _measured(subject, candidate, bytes_of)
    if rule.max_growth is not None:
        before = _measured(subject, baseline, bytes_of)
        growth = now / before - 1
        by = f"{'grew' if growth > 0 else 'shrank'} by {abs(growth):.1%}" if growth else "stayed the same"
        allowed = f"{rule.max_growth:.1%}"
        yield Result(
            rule=f"{subject}.max_growth",
            limit=allowed,
            baseline=size(before),
            now=size(now),
            change=f"{growth:+.1%}",
            estimate=growth,
            outcome="informational" if unlike else "pass" if growth <= rule.max_growth else "fail",
            why=unlike or f"{subject} {by} ({size(before)} to {size(now)}); {allowed} is allowed",
        )
    if rule.max is not None:
        limit = size(round(rule.max))
        yield Result(
            rule=f"{subject}.max",
            limit=limit,
            now=size(now),
            outcome="pass" if now <= rule.max else "fail",
            why=f"{subject} is {size(now)}, at most {limit} is wanted",
        )


def _measured(subject: str, side: Side, bytes_of: Callable[[Variant], int | None]) -> int:
    found = bytes_of(side.variant)
    if not found:
        raise KdcError(f"{subject} of {side.variant.name} in {side.place} was not measured", "leave its rule out")
    return found
