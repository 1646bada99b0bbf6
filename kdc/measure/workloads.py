"""What an artifact is timed on: the cells of the bench's grid that it can run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdc.export.artifact import Artifact
    from kdc.measure.settings import BenchConfig

Workload = dict[str, Any]


def grid(artifact: Artifact, bench: BenchConfig, threads: int) -> tuple[list[Workload], list[str]]:
    """The batch x length workloads that `artifact` can run, and notes on those that it cannot."""
    signatures = artifact.signatures
    if not any("length" in port.axes for signature in signatures for port in signature.inputs):
        return [{"batch": batch, "threads": threads} for batch in bench.batches], []
    limit = min((s.limits["length"] for s in signatures if "length" in s.limits), default=max(bench.lengths))
    skipped = [str(length) for length in bench.lengths if length > limit]
    notes = [f"not timed at length {', '.join(skipped)}: the model takes at most {limit}"] if skipped else []
    lengths = [length for length in bench.lengths if length <= limit]
    return [
        {"batch": batch, "length": length, "threads": threads} for batch in bench.batches for length in lengths
    ], notes


def end_to_end(rows: int, threads: int) -> Workload:
    """Real rows one by one, from the text or picture to the answer."""
    return {"rows": rows, "batch": 1, "end_to_end": True, "threads": threads}
