"""How a run went: where, on what data, through which stages, and how it was timed."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from kdc.record.part import Part


class Run(Part):
    id: str
    name: str = ""
    command: str
    overrides: list[str] = Field(default_factory=list)
    status: Literal["running", "ok", "failed"] = "running"
    error: str | None = None
    failed_stage: str | None = None
    started_at: str
    wall_seconds: float | None = None
    seed: int | None = None
    git: str | None = None


class Cpu(Part):
    model: str
    cores: int
    flags: list[str]


class Environment(Part):
    python: str
    packages: dict[str, str]
    cpu: Cpu
    gpus: list[dict[str, Any]] = Field(default_factory=list)
    threads: int


class Dataset(Part):
    name: str
    fingerprint: str
    splits: dict[str, int]
    labels: list[str]
    overlap: dict[str, int] = Field(default_factory=dict)
    """Rows of `validation`/`test` whose inputs also stand in train, by split."""


class TermAudit(Part):
    """What one term of a loss comes to on one batch."""

    raw: float
    weighted: float
    share: float
    """Of the sum of all weighted terms' sizes."""
    gradient_norm: float
    """Of the weighted term, over the student's parameters."""
    gradient_share: float
    """Of the sum of all terms' norms."""


class Audit(Part):
    """The terms of a loss by their keys, at one moment of the training."""

    step: int
    terms: dict[str, TermAudit]


class Train(Part):
    epochs: float
    steps: int
    samples_per_second: float
    history: list[dict[str, float]] = Field(default_factory=list)
    resumed_at: int | None = None
    """The step at which this went on with the work of a run that was killed."""
    audit: list[Audit] = Field(default_factory=list)


class Stage(Part):
    name: str
    key: str
    cached: bool
    wall_seconds: float
    train: Train | None = None
    notes: list[str] = Field(default_factory=list)


class Timing(Part):
    """How the latencies of a record were taken."""

    rounds: int
    processes: int
    wall_seconds: float
    machine: str
    """Fingerprint of the hardware."""
    noise_floor: float | None = None
    """The slowdown that two identical variants were seen to show on this machine; None where it was not measured."""
    together: list[str] = Field(default_factory=list)
    """Ids of the runs that were timed in the same rounds (a sweep)."""
