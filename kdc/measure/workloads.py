"""What an artifact is timed on: the cells of the bench's grid that it can run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdc.export.artifact import Artifact
    from kdc.measure.settings import BenchConfig

Workload = dict[str, Any]


def grid(artifact: Artifact, bench: BenchConfig, threads: int) -> tuple[list[Workload], list[str]]:
    """The batch x length workloads that `artifact` can run, and notes on those that it cannot."""
    batches, said = _batches(artifact, bench)
    lengths, also_said = _lengths(artifact, bench)
    sizes = [{"batch": batch} | ({"length": length} if length else {}) for batch in batches for length in lengths]
    return [{**size, "threads": threads} for size in sizes], [*said, *also_said]


def _batches(artifact: Artifact, bench: BenchConfig) -> tuple[list[int], list[str]]:
    fixed = artifact.signatures[0].fixed.get("batch")
    if fixed is None:
        return bench.batches, []
    others = [str(batch) for batch in bench.batches if batch != fixed]
    return [fixed], [f"not timed at batch {', '.join(others)}: the graph takes {fixed} only"] if others else []


def _lengths(artifact: Artifact, bench: BenchConfig) -> tuple[list[int | None], list[str]]:
    """`[None]` where inputs have no length."""
    signatures = artifact.signatures
    if not any("length" in port.axes for signature in signatures for port in signature.inputs):
        return [None], []
    if fixed := signatures[0].fixed.get("length"):
        others = [str(length) for length in bench.lengths if length != fixed]
        return [fixed], [f"not timed at length {', '.join(others)}: the graph takes {fixed} only"] if others else []
    limit = min((s.limits["length"] for s in signatures if "length" in s.limits), default=max(bench.lengths))
    skipped = [str(length) for length in bench.lengths if length > limit]
    notes = [f"not timed at length {', '.join(skipped)}: the model takes at most {limit}"] if skipped else []
    return [length for length in bench.lengths if length <= limit], notes


def spelled(workload: Mapping[str, Any], *, threads: bool = False) -> str:
    """`batch 1 x 32 tokens`, `batch 8`, `100 rows end to end`; with `threads` also `on 2 threads`, where it says."""
    if workload.get("end_to_end"):
        said = f"{workload['rows']} rows end to end"
    else:
        said = f"batch {workload['batch']}" + (f" x {workload['length']} tokens" if "length" in workload else "")
    count = workload.get("threads") if threads else None
    return f"{said} on {count} thread{'s' if count != 1 else ''}" if count else said


def end_to_end(rows: int, threads: int) -> Workload:
    """Real rows one by one, from the text or picture to the answer."""
    return {"rows": rows, "batch": 1, "end_to_end": True, "threads": threads}
