"""Which of a run's variants ships: what the last step made, in the fastest runtime that answers as well as any."""

from __future__ import annotations

from kdc.record import RunRecord, Variant


def shipped(record: RunRecord) -> Variant | None:
    """Of the last stage's variants, the one with the least p50 at the first workload; None where there are no variants.

    Runtimes round differently: those that answer worse beyond noise, on the same rows, are passed over. Where nothing
    was timed, the last of the others.
    """
    if not record.variants:
        return None
    asked = _asked_for(record, [v for v in record.variants if v.stage == record.variants[-1].stage])
    ranks = [_rank(variant, asked[0]) for variant in asked]
    able = [variant for variant, rank in zip(asked, ranks, strict=True) if rank == max(ranks)]
    timed = [variant for variant in able if variant.latency]
    return min(timed, key=lambda variant: variant.latency[0].p50_ms) if timed else able[-1]


def _asked_for(record: RunRecord, variants: list[Variant]) -> list[Variant]:
    """Those in runtimes of the configuration: a teacher in torch is measured without being asked for."""
    names = {chosen["name"] for chosen in record.config.get("runtime", {}).values()}
    return [variant for variant in variants if variant.runtime in names] or variants


def _rank(variant: Variant, first: Variant) -> int:
    """1 where it answers better than in the first runtime beyond noise, -1 where worse, else 0."""
    held = next((one for one in variant.comparisons if one.against == first.name), None)
    if held is None or variant.quality is None:
        return 0
    name, metric = next((name, one) for name, one in variant.quality.metrics.items() if one.primary)
    low, high = held.metrics[name].ci95 or (held.metrics[name].value,) * 2
    sign = 1 if metric.higher_is_better else -1
    return sign * ((low > 0) - (high < 0))
