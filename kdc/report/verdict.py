"""One honest sentence about a run: what ships kept, what it gained, against which baseline, at what."""

from __future__ import annotations

from kdc.measure.workloads import spelled
from kdc.record import RunRecord, Variant, Versus
from kdc.report import table
from kdc.shipped import shipped

UNCLEAR = 1.1
"""A factor below this says nothing where the rounds were too few for an interval: runs of one file differ as much."""

FEW_ROUNDS = 5
"""Fewer rounds have intervals that are wide beside what they hold: at 3, Student's t is 4.3, at 7 it is 2.4."""


def verdict(record: RunRecord) -> str:
    """What ships against the baseline (the teacher in torch fp32) and against the teacher in its own runtime.

    Quality that the number of rows cannot tell apart and speed whose interval holds 1 are said to be so.
    """
    if record.run.status == "failed":
        where = f" in stage {record.run.failed_stage}" if record.run.failed_stage else ""
        return f"The run failed{where}: {record.run.error or 'no reason was recorded'}"
    if record.run.status == "running":
        return "The run has not ended."
    final = shipped(record)
    if final is None:
        return "No variant was measured."
    clauses = [c for c in (_quality(record, final), _speed(record, final), _size(record, final)) if c]
    if not clauses:
        return f"{_named(final)} was built; nothing was measured."
    return f"{_named(final)} {_listed(clauses)}."


def fair_baseline(record: RunRecord, variant: Variant) -> Variant | None:
    """The teacher in the runtime of `variant`: against it, a runtime's gain is not sold as compression's."""
    reference = table.baseline(record)
    if reference is None or reference.runtime == variant.runtime:
        return None
    same = (v for v in record.variants if v.runtime == variant.runtime and v is not variant)
    return next((v for v in same if (v.stage, v.precision) == (reference.stage, reference.precision)), None)


def _quality(record: RunRecord, final: Variant) -> str:
    if final.quality is None:
        return ""
    name, metric = table.primary(final.quality)
    own = table.score(name, metric.value)
    data = f"{final.quality.n:,} {final.quality.split} rows"
    reference = table.baseline(record)
    if reference is None or reference is final or reference.quality is None:
        return f"has {own} {name} ({data})"
    theirs = reference.quality.metrics[name].value
    against = f"{own} against {table.score(name, theirs)}, {data}"
    against += _indistinct(final, reference, name)
    if final.quality.retained is None or not metric.higher_is_better:
        return f"has {name} of {own} ({against})"
    return f"keeps {final.quality.retained:.1%} of the teacher's {name} ({against})"


def _indistinct(final: Variant, reference: Variant, name: str) -> str:
    """Said where the rows cannot tell the two apart: by the paired difference, or as far as the record goes."""
    assert final.quality is not None
    assert reference.quality is not None
    compared = next((c for c in final.comparisons if c.against == reference.name and name in c.metrics), None)
    if compared is not None:
        ci95 = compared.metrics[name].ci95
        if ci95 and ci95[0] <= 0 <= ci95[1]:
            interval = table.change_interval(name, ci95) + (" points" if table.is_share(name) else "")
            return f": not distinguishable, 95% interval of the difference {interval}"
        return ""
    ci95, theirs = final.quality.metrics[name].ci95, reference.quality.metrics[name].value
    if ci95 and ci95[0] <= theirs <= ci95[1]:
        return f": not distinguishable within the 95% interval {table.score_interval(name, ci95)}"
    return ""


def _speed(record: RunRecord, final: Variant) -> str:
    wanted = table.first_workload(record)
    latency = table.latency_at(final, wanted)
    if wanted is None:
        return ""
    if latency is None:
        return "" if final.latency else "could not be timed"
    at = f"at {spelled(wanted, threads=True)}{_few_rounds(record)}"
    reference, fair = table.baseline(record), fair_baseline(record, final)
    clauses = [
        _pace(against, other)
        for other in (reference, fair)
        if other and (against := table.versus(latency, other.name)) is not None
    ]
    if not clauses:
        return f"takes {table.significant(latency.p50_ms)} ms {at}"
    return f"is {clauses[0]}{f' ({clauses[1]})' if clauses[1:] else ''} {at}"


def _pace(against: Versus, other: Variant) -> str:
    name = f"the {_named(other)}" if table.model_name(other) == "teacher" else _named(other)
    if against.ci95 and against.ci95[0] <= 1 <= against.ci95[1]:
        interval = table.times_interval(against.ci95)
        return f"not distinguishable in speed from {name} ({table.times(against.ratio)}, 95% interval {interval})"
    if against.ci95 is None and 1 / UNCLEAR < against.ratio < UNCLEAR:
        return f"about as fast as {name} ({table.times(against.ratio)}, too few rounds for an interval)"
    if against.ratio >= 1:
        return f"{table.times(against.ratio)} faster than {name}"
    return f"{table.times(1 / against.ratio)} slower than {name}"


def _size(record: RunRecord, final: Variant) -> str:
    reference = table.baseline(record)
    if final.artifact is None:
        return ""
    if reference is None or reference is final or reference.artifact is None:
        return f"ships in {table.size(final.artifact.bytes)}"
    ratio = reference.artifact.bytes / final.artifact.bytes
    if 0.99 < ratio < 1.01:
        return "is as large"
    return f"is {table.times(ratio)} smaller" if ratio > 1 else f"is {table.times(1 / ratio)} larger"


def _few_rounds(record: RunRecord) -> str:
    rounds = record.timing.rounds if record.timing else FEW_ROUNDS
    return f" (only {rounds} round{'s' if rounds != 1 else ''}, so wide intervals)" if rounds < FEW_ROUNDS else ""


def _named(variant: Variant) -> str:
    return f"{table.model_name(variant)} in {variant.runtime}"


def _listed(clauses: list[str]) -> str:
    return clauses[0] if len(clauses) == 1 else f"{', '.join(clauses[:-1])}, and {clauses[-1]}"
