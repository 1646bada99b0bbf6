"""report.md: a record as one Markdown page, verdict first. Rendered from the record alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from kdc.files import write_atomically
from kdc.record import RunRecord, Stage
from kdc.report import table
from kdc.report.loading import loading_snippet
from kdc.report.verdict import verdict

HISTORY_ROWS = 12


def write_markdown(record: RunRecord, path: Path) -> None:
    write_atomically(path, markdown(record))


def markdown(record: RunRecord) -> str:
    sections = [
        f"# {record.run.name or record.run.id}\n\n**{verdict(record)}**",
        _variants(record),
        _latency(record),
        _without_kdc(record),
        _stages(record),
        *(_training(stage) for stage in record.stages if stage.train),
        _dataset(record),
        _environment(record),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _variants(record: RunRecord) -> str:
    if not record.variants:
        return ""
    head, *body = [
        [f"{c.main} ({c.detail})" if c.detail else c.main for c in row]
        for row in [table.headers(record), *table.rows(record)]
    ]
    against = f" Speed-up and size are against {record.baseline}." if record.baseline else ""
    notes = [
        "Quality, size and latency are those of the exported files, loaded again in the runtime named; size counts all "
        f"files that ship. Brackets hold 95% intervals.{against}"
    ]
    if record.notes:
        notes.append("\n".join(f"- {note}" for note in record.notes))
    return "\n\n".join(["## Variants", grid(head, body), *notes])


def _latency(record: RunRecord) -> str:
    timed = [variant for variant in record.variants if variant.latency]
    if not timed:
        return ""
    workloads = []
    for variant in timed:
        workloads += [latency.workload for latency in variant.latency if latency.workload not in workloads]
    body = []
    for workload in workloads:
        line = [table.workload(workload)]
        for variant in timed:
            latency = table.latency_at(variant, workload)
            if latency is None:
                line.append(table.MISSING)
                continue
            tail = [f"p{q} {table.significant(v)}" for q, v in ((90, latency.p90_ms), (99, latency.p99_ms)) if v]
            faster = table.versus(latency, record.baseline)
            details = [*tail, *([table.times(faster.ratio)] if faster else [])]
            line.append(table.significant(latency.p50_ms) + (f" ({', '.join(details)})" if details else ""))
        body.append(line)
    processes = max(len(latency.samples) for variant in timed for latency in variant.latency)
    said = (
        f"Median milliseconds a call over {processes} fresh processes a variant, after warm-up; in brackets the higher "
        "percentiles that the samples allow and how many times faster than the baseline."
    )
    names = [f"{table.model_name(v)}, {v.runtime} {v.precision}" for v in timed]
    return "\n\n".join(["## Latency", grid(["workload", *names], body), said])


def _without_kdc(record: RunRecord) -> str:
    final = next((variant for variant in reversed(record.variants) if variant.artifact), None)
    if final is None or not (code := loading_snippet(final)):
        return ""
    return f"## Use it without kdc\n\n```python\n{code}```"


def _stages(record: RunRecord) -> str:
    if not record.stages:
        return ""
    body = [
        [
            s.name,
            f"`{s.key[:12]}`" if s.key else "",
            "reused" if s.cached else "ran",
            table.seconds(s.wall_seconds),
            "; ".join(s.notes),
        ]
        for s in record.stages
    ]
    return "## Stages\n\n" + grid(["stage", "key", "", "time", "notes"], body)


def _training(stage: Stage) -> str:
    assert stage.train is not None
    history = stage.train.history
    names = list(dict.fromkeys(name for entry in history for name in entry))
    every = max(1, -(-len(history) // HISTORY_ROWS))
    # Counted from the end, so that the last entry is always among those shown.
    shown = history[::-1][::every][::-1]
    body = [[_plain(entry[name]) if name in entry else "" for name in names] for entry in shown]
    said = (
        f"{stage.train.epochs:g} epochs, {stage.train.steps:,} steps, "
        f"{stage.train.samples_per_second:,.0f} rows a second."
    )
    return "\n\n".join([f"## Training: {stage.name}", said, *([grid(names, body)] if history else [])])


def _dataset(record: RunRecord) -> str:
    if record.dataset is None:
        return ""
    data = record.dataset
    overlap = {split: count for split, count in data.overlap.items() if count}
    lines = [
        f"- {data.name}: " + ", ".join(f"{rows:,} {split}" for split, rows in data.splits.items()),
        f"- {len(data.labels)} labels: " + ", ".join(data.labels[:20]) + (", …" if len(data.labels) > 20 else ""),
        "- rows that also stand in train: " + (", ".join(f"{n:,} of {s}" for s, n in overlap.items()) or "none"),
        f"- fingerprint `{data.fingerprint[:16]}`",
    ]
    return "## Data\n\n" + "\n".join(lines)


def _environment(record: RunRecord) -> str:
    if record.environment is None:
        return ""
    place = record.environment
    gpus = ", ".join(str(gpu.get("name", gpu)) for gpu in place.gpus)
    lines = [
        f"- `{record.run.command}`",
        f"- {place.cpu.model}, {place.cpu.cores} cores ({', '.join(place.cpu.flags)}), {place.threads} threads",
        *([f"- {gpus}"] if gpus else []),
        f"- Python {place.python}; " + ", ".join(f"{name} {version}" for name, version in place.packages.items()),
        *([f"- seed {record.run.seed}"] if record.run.seed is not None else []),
    ]
    return "## Environment\n\n" + "\n".join(lines)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"


def grid(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
