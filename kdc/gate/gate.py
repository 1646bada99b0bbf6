"""The gate: every rule on a candidate and its baseline, what can be read first, what must be timed last."""

from __future__ import annotations

from kdc.gate.latency import Timer, latency_results
from kdc.gate.quality import quality_results
from kdc.gate.report import GateReport
from kdc.gate.rules import Rules
from kdc.gate.side import Side
from kdc.gate.size import bytes_results, memory_results


def run_gate(rules: Rules, candidate: Side, baseline: Side, timer: Timer) -> GateReport:
    """Judge every limit. KdcError where the two cannot be compared, or a rule asks for what was not measured."""
    results = quality_results(rules.metrics, candidate, baseline)
    if rules.bytes is not None:
        results += bytes_results(rules.bytes, candidate, baseline)
    if rules.memory is not None:
        results += memory_results(rules.memory, candidate, baseline)
    if rules.latency is not None:
        results += latency_results(rules.latency, candidate, baseline, timer)
    return GateReport(
        run=str(candidate.place),
        variant=candidate.variant.name,
        baseline=str(baseline.place),
        against=baseline.variant.name,
        results=results,
    )
