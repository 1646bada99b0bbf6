"""The YAML of `bench`: what is timed, and how long. No torch."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from kdc.registry import Component


class BenchConfig(Component):
    """The grid of workloads and the effort spent on each.

    Every variant is timed in `rounds` fresh processes, all variants once a round in rotated order; each process makes
    `calls` timed calls a workload after its warm-up. `rows` real test rows are timed end to end, tokenizer included.
    Processes differ more than calls within one do, so many short processes tell more than a few long ones.
    """

    name: str
    batches: list[PositiveInt] = Field(default=[1, 8], min_length=1)
    lengths: list[PositiveInt] = Field(default=[32, 128], min_length=1)
    rounds: PositiveInt = 7
    calls: PositiveInt = 40
    seconds: float = Field(default=0.15, gt=0)
    """A workload ends after this long, even with fewer calls (never under 3)."""
    rows: int = Field(default=16, ge=0)
    threads: PositiveInt | None = None
    """Threads a process may use; none: all cores."""

    @classmethod
    def of_gate(cls, *, batch: int, length: int, threads: int | None) -> BenchConfig:
        """What a gate times with, and so what the noise floor that it is held to is taken with: one workload."""
        return cls(name="gate", batches=[batch], lengths=[length], rows=0, threads=threads)
