"""Tables and figures of a run that pages show beside the table of variants: text only, no rendering."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from kdc.measure.workloads import spelled
from kdc.record import Comparison, MetricValue, RunRecord, Stage, Variant
from kdc.report import table
from kdc.report.table import Cell
from kdc.report.verdict import fair_baseline
from kdc.shipped import shipped

FEW_NOTES = 3
"""What the table of stages has room for."""


@dataclass(frozen=True)
class Tile:
    """A figure to be read from afar, what it is, and in smaller print what it stands on."""

    value: str
    label: str
    detail: str


Row = list[str | Cell]


@dataclass(frozen=True)
class Grid:
    """A table with its caption; nothing to show where it has no rows."""

    caption: str
    head: Sequence[str | Cell]
    rows: Sequence[Row] | Sequence[list[Cell]]


def tiles(record: RunRecord) -> list[Tile]:
    """What the variant that ships is against the baseline; what was not measured has no tile."""
    reference, final = table.baseline(record), shipped(record)
    if reference is None or final is None or reference is final:
        return []
    found = [_kept(final, reference), _faster(record, final), _smaller(final, reference), _memory(final, reference)]
    return [tile for tile in found if tile is not None]


def _kept(final: Variant, reference: Variant) -> Tile | None:
    if final.quality is None or reference.quality is None:
        return None
    name, metric = table.primary(final.quality)
    own, interval = table.score(name, metric.value), table.score_interval(name, metric.ci95)
    theirs = table.score(name, reference.quality.metrics[name].value)
    detail = f"{own}{f' ({interval})' if interval else ''} against {theirs}"
    if final.quality.retained is None or not metric.higher_is_better:
        return Tile(own, name, detail)
    return Tile(f"{final.quality.retained:.1%}", f"of the teacher's {name}", detail)


def _faster(record: RunRecord, final: Variant) -> Tile | None:
    wanted = table.first_workload(record)
    latency = table.latency_at(final, wanted)
    faster = table.versus(latency, record.baseline)
    if latency is None or wanted is None or faster is None:
        return None
    interval = table.times_interval(faster.ci95)
    detail = f"{f'{interval}; ' if interval else ''}{table.significant(latency.p50_ms)} ms at {spelled(wanted)}"
    fair = fair_baseline(record, final)
    if fair and (same := table.versus(latency, fair.name)):
        detail += f"; {table.times(same.ratio)} against the teacher in {final.runtime}"
    return Tile(table.times(faster.ratio), "as fast as the teacher", detail)


def _smaller(final: Variant, reference: Variant) -> Tile | None:
    if final.artifact is None or reference.artifact is None:
        return None
    ratio = reference.artifact.bytes / final.artifact.bytes
    sizes = f"{table.size(final.artifact.bytes)} against {table.size(reference.artifact.bytes)}"
    return Tile(table.times(max(ratio, 1 / ratio)), "smaller on disk" if ratio >= 1 else "larger on disk", sizes)


def _memory(final: Variant, reference: Variant) -> Tile | None:
    if final.memory is None or reference.memory is None:
        return None
    theirs = table.size(reference.memory.peak_rss_bytes)
    return Tile(table.size(final.memory.peak_rss_bytes), "of memory at its peak", f"against {theirs}")


def variants(record: RunRecord) -> Grid:
    """The table of variants, runtime and precision as small print: one line a variant on a phone too."""
    head, *rows = [
        [Cell(name.main, f"{runtime.main} {precision.main}"), *numbers]
        for name, runtime, precision, *numbers in (table.headers(record), *table.rows(record))
    ]
    return Grid("Every variant", head, rows)


def metrics(record: RunRecord) -> Grid:
    """All metrics of every variant, and how often it answers as the teacher."""
    scored = {v.name: v.quality for v in record.variants if v.quality}
    names = list(dict.fromkeys(name for quality in scored.values() for name in quality.metrics))
    agreed = list(dict.fromkeys(name for quality in scored.values() for name in quality.agreement))
    rows: list[Row] = [
        [
            variant,
            *(_metric(name, quality.metrics.get(name)) for name in names),
            *(f"{quality.agreement[name]:.1%}" if name in quality.agreement else table.MISSING for name in agreed),
        ]
        for variant, quality in scored.items()
    ]
    return Grid("All metrics", ["variant", *names, *(f"agreement with the teacher, {name}" for name in agreed)], rows)


def robustness(record: RunRecord) -> Grid:
    """The primary metric on rows as they are and perturbed."""
    scored = {v.name: v.quality for v in record.variants if v.quality and v.quality.robustness}
    names = list(dict.fromkeys(name for quality in scored.values() for name in quality.robustness))
    rows: list[Row] = []
    for variant, quality in scored.items():
        metric, plain = table.primary(quality)
        rows.append(
            [variant, _metric(metric, plain), *(_metric(metric, quality.robustness.get(name)) for name in names)]
        )
    return Grid("Quality on perturbed rows", ["variant", "as they are", *names], rows)


def parity(record: RunRecord) -> Grid:
    """What of each artifact, loaded from its files, was held against the model that it was made from."""
    seen = {v.name: v.fidelity for v in record.variants if v.fidelity and "rows" in v.fidelity}
    rows: list[Row] = [
        [
            name,
            f"{fidelity['rows']}",
            f"{fidelity['agreement']:.1%}",
            f"{fidelity['max_difference'] / fidelity['spread']:.1e}",
            f"{fidelity['in_float']:.1%}" if "in_float" in fidelity else table.MISSING,
        ]
        for name, fidelity in seen.items()
    ]
    head = ["variant", "rows", "answers as planned", "largest difference", "answers as in float"]
    caption = "Files, in processes of their own, against their model rounded as planned (differences in its spread)"
    return Grid(caption, head, rows)


def files(record: RunRecord) -> Grid:
    """What ships, what it computes, how long it takes until the first answer, and what it adds to an idle Python."""
    rows: list[Row] = [
        [
            v.name,
            table.size(v.artifact.model_bytes),
            table.size(v.artifact.gzip_bytes),
            f"{v.parameters.total:,}" if v.parameters else table.MISSING,
            f"{1 - v.parameters.nonzero / v.parameters.total:.1%}"
            if v.parameters and v.parameters.total
            else table.MISSING,
            table.count(v.macs.total) if v.macs else table.MISSING,
            f"{v.macs.int8 / v.macs.total:.0%}" if v.macs and v.macs.total else table.MISSING,
            table.seconds(v.load_seconds) if v.load_seconds is not None else table.MISSING,
            f"{table.significant(v.first_call_ms)} ms" if v.first_call_ms is not None else table.MISSING,
            table.size(v.memory.peak_rss_bytes - v.memory.idle_rss_bytes) if v.memory else table.MISSING,
            table.size(v.memory.peak_gpu_bytes) if v.memory and v.memory.peak_gpu_bytes else table.MISSING,
        ]
        for v in record.variants
        if v.artifact
    ]
    head = ["variant", "model file", "zipped", "parameters", "zeros", "MACs", "in int8", "load"]
    caption = "Files, operations (MACs of the three longest validation rows, as one batch), cold start and memory"
    return Grid(caption, [*head, "first call", "memory over idle", "on the GPU"], rows)


def kernels(record: RunRecord) -> Grid:
    """How many kernels run for the operators of each artifact's files, of the runtimes that tell."""
    rows: list[Row] = [
        [
            v.name,
            f"{v.kernels.operators}",
            f"{v.kernels.kernels}",
            ", ".join(f"{count} {kind}" for kind, count in Counter(v.kernels.fused).most_common()) or "none",
        ]
        for v in record.variants
        if v.kernels and v.kernels.kernels
    ]
    caption = "What runtimes make of the operators in their files"
    return Grid(caption, ["variant", "operators", "kernels that run", "fused of several"], rows)


def stages(record: RunRecord) -> Grid:
    rows: list[Row] = [
        [s.name, s.key[:12], "the cache" if s.cached else "this run", table.seconds(s.wall_seconds), _notes(s)]
        for s in record.stages
    ]
    return Grid("Every stage in its order", ["stage", "key", "from", "time", "notes"], rows)


def talkative(record: RunRecord) -> list[Stage]:
    """Stages that say more than a table can hold, such as what a pass did to each layer."""
    return [stage for stage in record.stages if len(stage.notes) > FEW_NOTES]


def _notes(stage: Stage) -> str:
    return "; ".join(stage.notes) if len(stage.notes) <= FEW_NOTES else f"{len(stage.notes)} notes, below"


def facts(record: RunRecord) -> dict[str, str]:
    """What the run was, on which data, and on what machine: names and values for a list."""
    found = {"command": record.run.command}
    if record.run.seed is not None:
        found["seed"] = str(record.run.seed)
    if record.run.git:
        found["commit"] = record.run.git[:12]
    if data := record.dataset:
        overlap = ", ".join(f"{rows:,} of {split}" for split, rows in data.overlap.items() if rows)
        found["data"] = f"{data.name}: " + ", ".join(f"{rows:,} {split}" for split, rows in data.splits.items())
        found["labels"] = f"{len(data.labels)}: " + ", ".join(data.labels[:20]) + ", …" * (len(data.labels) > 20)
        found["rows also in train"] = overlap or "none"
        found["fingerprint of the data"] = data.fingerprint[:16]
    if place := record.environment:
        cpu = place.cpu
        found["processor"] = f"{cpu.model}, {cpu.cores} cores ({', '.join(cpu.flags)}), {place.threads} threads"
        if place.gpus:
            found["GPU"] = ", ".join(str(gpu.get("name", gpu)) for gpu in place.gpus)
        found["Python"] = place.python
    return found


def compared_metric(variant: Variant, comparison: Comparison) -> str:
    """The metric that stands for quality in a comparison: the primary one, where it was compared."""
    name = table.primary(variant.quality)[0] if variant.quality else ""
    return name if name in comparison.metrics else next(iter(comparison.metrics))


def _metric(name: str, metric: MetricValue | None) -> Cell:
    if metric is None:
        return Cell(table.MISSING)
    return Cell(table.score(name, metric.value), table.score_interval(name, metric.ci95))
