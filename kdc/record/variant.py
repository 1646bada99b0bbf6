"""One model in one runtime, as files: their size, quality and speed, and what its teacher was worth."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from kdc.record.part import Part
from kdc.record.quality import Comparison, Quality


class Artifact(Part):
    path: str
    sha256: str
    bytes: int
    """All files that ship, tokenizer or preprocessing included."""
    model_bytes: int
    """Without the tokenizer."""
    gzip_bytes: int
    files: dict[str, int]


class Count(Part):
    total: int
    nonzero: int


class MacsCount(Part):
    total: int
    int8: int = 0
    eligible: int = 0


class KernelCount(Part):
    """How many kernels run for the operators of an artifact's files; zeros where its runtime does not tell."""

    operators: int = 0
    kernels: int = 0
    fused: dict[str, int] = Field(default_factory=dict)
    """Of the kernels those that stand for several operators, by kind."""


class Versus(Part):
    against: str
    ratio: float
    """How many times faster this variant is: p50 of `against` over its own."""
    ci95: tuple[float, float] | None = None


class Latency(Part):
    workload: dict[str, Any]
    p50_ms: float
    p90_ms: float | None = None
    p99_ms: float | None = None
    throughput: float
    """Examples a second."""
    samples: list[list[float]]
    """Milliseconds of every timed call, one list a process."""
    versus: list[Versus] = Field(default_factory=list)
    joules: float | None = None
    """Energy a call, from counters of the hardware; None where it has none that may be read."""


class Memory(Part):
    peak_rss_bytes: int
    idle_rss_bytes: int
    """Of a Python process before it imports anything that serves."""
    loaded_rss_bytes: int | None = None
    """After the artifact was loaded, before its first call."""
    peak_gpu_bytes: int | None = None
    """The most that its tensors held on the GPU; None where it ran on the CPU."""


class Replicate(Part):
    """One of several trainings that differ in their seed alone."""

    seed: int
    metrics: dict[str, float] = Field(default_factory=dict)
    key: str = ""
    """Of the stage that trained it."""


class Gain(Part):
    """A metric of the student minus a control's: the mean over seeds that both were trained with, on the same rows."""

    value: float
    ci95: tuple[float, float] | None = None
    higher_is_better: bool = True
    seeds: int
    n: int
    """Test rows."""
    resampled: list[Literal["seeds", "examples"]]
    """What the interval allows for: one seed says nothing of others."""
    verdict: Literal["gain", "no gain within noise", "harm", "no interval"]


class Control(Part):
    """The student's training without its teacher, on the same budget and with the same seeds."""

    name: Literal["hard labels", "from scratch"]
    """With the student's own initialization, or with one that carries nothing of the teacher."""
    description: str
    parameters: Count | None = None
    replicates: list[Replicate] = Field(default_factory=list)
    gains: dict[str, Gain] = Field(default_factory=dict)
    """By metric: the first variant that has replicates, against this control."""


class Variant(Part):
    name: str
    stage: str
    parents: list[str] = Field(default_factory=list)
    runtime: str
    precision: str
    artifact: Artifact | None = None
    parameters: Count | None = None
    macs: MacsCount | None = None
    kernels: KernelCount | None = None
    quality: Quality | None = None
    comparisons: list[Comparison] = Field(default_factory=list)
    excluded: dict[str, str] = Field(default_factory=dict)
    """Modules that a precision pass left in float, and why."""
    fidelity: dict[str, Any] | None = None
    """The artifact, loaded in a process of its own, held against the torch model: argmax agreement, largest
    difference."""
    latency: list[Latency] = Field(default_factory=list)
    load_seconds: float | None = None
    first_call_ms: float | None = None
    memory: Memory | None = None
    replicates: list[Replicate] = Field(default_factory=list)
    """One a seed, the first being the variant itself."""
