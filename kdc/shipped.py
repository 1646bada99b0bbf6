"""Which of a run's variants ships: what the last step made, in the fastest runtime that answers as well as any."""

from __future__ import annotations

from kdc.record import RunRecord, Variant


def shipped(record: RunRecord) -> Variant | None:
    """Of the last stage's variants, the one with the least p50 at the first workload; None where there are no variants.

    Runtimes round differently: one whose primary metric lies below the 95% interval of the best one's is passed over.
    The last variant where nothing was timed.
    """
    if not record.variants:
        return None
    last = record.variants[-1]
    able = _as_good([variant for variant in record.variants if variant.stage == last.stage])
    timed = [variant for variant in able if variant.latency]
    return min(timed, key=lambda variant: variant.latency[0].p50_ms) if timed else last


def _as_good(variants: list[Variant]) -> list[Variant]:
    scored = {
        variant.name: next(metric for metric in variant.quality.metrics.values() if metric.primary)
        for variant in variants
        if variant.quality
    }
    if not scored:
        return variants
    sign = 1 if next(iter(scored.values())).higher_is_better else -1
    best = max(scored.values(), key=lambda metric: sign * metric.value)
    if best.ci95 is None:
        return variants
    worst = sign * best.ci95[0 if sign > 0 else 1]
    return [v for v in variants if v.name not in scored or sign * scored[v.name].value >= worst]
