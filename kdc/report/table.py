"""How numbers of a record read, and the table of variants that console and Markdown share. Text only, no rendering."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kdc.measure.workloads import spelled
from kdc.record import Latency, MetricValue, Quality, RunRecord, Variant, Versus

MISSING = "-"


@dataclass(frozen=True)
class Cell:
    """What a cell says, and the smaller print beside or below it."""

    main: str
    detail: str = ""


def score(name: str, value: float) -> str:
    """Shares as percentages (`88.4%`), everything else (a correlation, a perplexity) as a number."""
    return f"{value:.1%}" if is_share(name) else f"{value:.3f}"


def score_interval(name: str, ci95: tuple[float, float] | None) -> str:
    """`86.9–89.8`, in the unit of `score`; empty where there is none."""
    if ci95 is None:
        return ""
    return "{:.1f}–{:.1f}".format(*(100 * v for v in ci95)) if is_share(name) else "{:.3f}–{:.3f}".format(*ci95)


def change(name: str, difference: float) -> str:
    """A difference of two scores, signed: `−1.3 points` for shares, `−0.021` for everything else."""
    return f"{points(difference)} points" if is_share(name) else signed(difference, 3)


def points(difference: float) -> str:
    """A difference of two shares in percentage points: `−1.3`."""
    return signed(100 * difference, 1)


def signed(value: float, decimals: int) -> str:
    """`+1.3`, `−1.3`, and `0.0` for what rounds to it."""
    said = f"{value:+.{decimals}f}".replace("-", "−")
    return said if any(digit in said for digit in "123456789") else said[1:]


def change_interval(name: str, ci95: tuple[float, float] | None) -> str:
    """`−2.1 to −0.4`, in the unit of `change`; empty where there is none."""
    return " to ".join(change(name, end).removesuffix(" points") for end in ci95) if ci95 else ""


def p_value(p: float | None) -> str:
    return MISSING if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def significant(value: float) -> str:
    """Three significant digits, without an exponent: `0.123`, `11.9`, `245`."""
    decimals = next((d for limit, d in ((1, 3), (10, 2), (100, 1)) if abs(value) < limit), 0)
    return f"{value:,.{decimals}f}"


def size(count: int) -> str:
    """Decimal units, as disks and downloads are counted."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{significant(count / scale)} {unit}"
    return f"{count} B"


def count(number: int) -> str:
    """Large numbers of things: `11.2 M`, `21.8 G`."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{significant(number / scale)} {unit}"
    return str(number)


def times(ratio: float) -> str:
    """A factor: `8.1x`, and `0.98x` where one decimal would hide the difference."""
    return f"{ratio:.2f}x" if ratio < 2 else f"{ratio:.1f}x" if ratio < 100 else f"{ratio:,.0f}x"


def times_interval(ci95: tuple[float, float] | None) -> str:
    """`7.8–8.4`; empty where there is none."""
    return f"{times(ci95[0])[:-1]}–{times(ci95[1])[:-1]}" if ci95 else ""


def seconds(value: float) -> str:
    if value < 10:
        return f"{value:.1f} s"
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.1f} min"


def duration(record: RunRecord) -> str:
    """What a run took, no less than its stages: `12 s, and 40 s of timing shared by 4 runs`; empty while it runs.

    A sweep times its runs after they ended, alone where no other has their settings of `bench`: that is in their
    stages, not in their own time.
    """
    own, timing = record.run.wall_seconds, record.timing
    if own is None:
        return ""
    if timing is None or not (timing.together or sum(stage.wall_seconds for stage in record.stages) > own):
        return seconds(own)
    shared = f" shared by {len(timing.together)} runs" if timing.together else ""
    return f"{seconds(own)}, and {seconds(timing.wall_seconds)} of timing{shared}"


def short_workload(workload: Mapping[str, Any]) -> str:
    """`1 x 32` where a column is narrow; a workload without a length as it is spelled anywhere."""
    return f"{workload['batch']} x {workload['length']}" if "length" in workload else spelled(workload)


def model_name(variant: Variant) -> str:
    """The variant without its runtime: where the name carries it, it would stand in the table twice."""
    return variant.name.removesuffix(variant.runtime).rstrip(" -_.:/@") or variant.name


def primary(quality: Quality) -> tuple[str, MetricValue]:
    return next(item for item in quality.metrics.items() if item[1].primary)


def first_workload(record: RunRecord) -> Mapping[str, Any] | None:
    """The workload that stands for latency in one-row-a-variant tables."""
    return next((variant.latency[0].workload for variant in record.variants if variant.latency), None)


def workloads(record: RunRecord) -> list[Mapping[str, Any]]:
    """All that were timed, in their order."""
    found: list[Mapping[str, Any]] = []
    for variant in record.variants:
        found += [latency.workload for latency in variant.latency if latency.workload not in found]
    return found


def latency_at(variant: Variant, wanted: Mapping[str, Any] | None) -> Latency | None:
    return next((latency for latency in variant.latency if latency.workload == wanted), None)


def versus(latency: Latency | None, against: str | None) -> Versus | None:
    return next((v for v in latency.versus if v.against == against), None) if latency else None


def timed_together(records: Iterable[RunRecord]) -> bool:
    """Whether the latencies of several runs come from the same rounds, so that they may be held against each other."""
    together = [record.timing.together if record.timing else [] for record in records]
    return len(together) < 2 or (bool(together[0]) and all(names == together[0] for names in together))


def baseline(record: RunRecord) -> Variant | None:
    """The variant that ratios are against, when the run came far enough to have it."""
    return next((variant for variant in record.variants if variant.name == record.baseline), None)


def headers(record: RunRecord) -> list[Cell]:
    scored = next((variant.quality for variant in record.variants if variant.quality), None)
    wanted = first_workload(record)
    return [
        Cell("variant"),
        Cell("runtime"),
        Cell("precision"),
        Cell(primary(scored)[0], scored.split) if scored else Cell("quality"),
        Cell("kept"),
        Cell("size", "smaller"),
        Cell("p50 ms", short_workload(wanted) if wanted else ""),
        Cell("speed-up"),
        Cell("memory", "peak"),
    ]


def rows(record: RunRecord) -> list[list[Cell]]:
    """One row a variant in the order of `headers`; what a run did not get to is `-`."""
    return [_row(record, variant) for variant in record.variants]


def latency_grid(record: RunRecord) -> tuple[list[Cell], list[list[Cell]]]:
    """Every workload of every variant: its median, the percentiles that the samples allow, the ratio, the energy."""
    timed = [variant for variant in record.variants if variant.latency]
    names = [Cell(model_name(v), f"{v.runtime} {v.precision}") for v in timed]
    return [Cell("workload"), *names], [
        [Cell(spelled(wanted)), *(_timed(latency_at(variant, wanted), record.baseline) for variant in timed)]
        for wanted in workloads(record)
    ]


def how_timed(record: RunRecord) -> str:
    """A sentence or two on where the latencies come from."""
    processes = max(len(latency.samples) for variant in record.variants for latency in variant.latency)
    said = (
        f"Median milliseconds a call over {processes} fresh processes a variant, after warm-up, with the higher "
        "percentiles that the samples allow and how many times faster than the baseline."
    )
    if record.timing is not None:
        how = record.timing
        said += f" {how.rounds} rounds took {seconds(how.wall_seconds)}."
        if how.noise_floor is not None:
            said += f" On this machine, one file timed against itself differs by up to {how.noise_floor:.1%}."
        if how.together:
            said += f" {len(how.together)} runs were timed in these rounds."
    return said


def _timed(latency: Latency | None, against: str | None) -> Cell:
    if latency is None:
        return Cell(MISSING)
    tail = [f"p{q} {significant(v)}" for q, v in ((90, latency.p90_ms), (99, latency.p99_ms)) if v]
    if faster := versus(latency, against):
        tail.append(times(faster.ratio))
    if latency.joules is not None:
        tail.append(f"{significant(1000 * latency.joules)} mJ")
    return Cell(significant(latency.p50_ms), ", ".join(tail))


def _row(record: RunRecord, variant: Variant) -> list[Cell]:
    reference = baseline(record)
    latency = latency_at(variant, first_workload(record))
    faster = versus(latency, record.baseline)
    retained = variant.quality.retained if variant.quality else None
    return [
        Cell(model_name(variant)),
        Cell(variant.runtime),
        Cell(variant.precision),
        _quality(variant),
        Cell(MISSING if retained is None else f"{retained:.1%}"),
        _size(variant, reference),
        Cell(significant(latency.p50_ms)) if latency else Cell(MISSING),
        Cell(times(faster.ratio), times_interval(faster.ci95)) if faster else Cell(MISSING),
        Cell(size(variant.memory.peak_rss_bytes)) if variant.memory else Cell(MISSING),
    ]


def _quality(variant: Variant) -> Cell:
    if variant.quality is None:
        return Cell(MISSING)
    name, metric = primary(variant.quality)
    return Cell(score(name, metric.value), score_interval(name, metric.ci95))


def _size(variant: Variant, reference: Variant | None) -> Cell:
    if variant.artifact is None:
        return Cell(MISSING)
    own = size(variant.artifact.bytes)
    if reference is None or reference.artifact is None or reference is variant:
        return Cell(own)
    return Cell(own, times(reference.artifact.bytes / variant.artifact.bytes))


def is_share(name: str) -> bool:
    return name.startswith(("accuracy", "f1", "precision", "recall", "exact_match"))
