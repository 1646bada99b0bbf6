"""The gate: every rule on a candidate and its baseline, what can be read first, what must be timed last."""

from __future__ import annotations

from kdc.errors import KdcError
from kdc.gate.latency import Timer, latency_results
from kdc.gate.quality import quality_results
from kdc.gate.report import GateReport, Result
from kdc.gate.rules import LatencyRule, Rules
from kdc.gate.side import Side
from kdc.gate.size import bytes_results, memory_results


def run_gate(rules: Rules, candidate: Side, baseline: Side, timer: Timer) -> GateReport:
    """Judge every limit. KdcError where the two cannot be compared, or a rule asks for what was not measured.

    Timing that fails refuses its own rule only: what was judged before it stands.
    """
    results = quality_results(rules.metrics, candidate, baseline)
    if rules.bytes is not None:
        results += bytes_results(rules.bytes, candidate, baseline)
    if rules.memory is not None:
        results += memory_results(rules.memory, candidate, baseline)
    if rules.latency is not None:
        results += _timed(rules.latency, candidate, baseline, timer)
    return GateReport(
        run=str(candidate.place),
        variant=candidate.variant.name,
        baseline=str(baseline.place),
        against=baseline.variant.name,
        results=results,
    )


def _timed(rule: LatencyRule, candidate: Side, baseline: Side, timer: Timer) -> list[Result]:
    try:
        return latency_results(rule, candidate, baseline, timer)
    except KdcError as error:
        return [Result(rule="latency", limit="", outcome="refused", why=str(error))]
