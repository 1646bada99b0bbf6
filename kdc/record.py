"""RunRecord: the whole result of a run, and the vocabulary that measure and report share. No torch.

Field names are an interface: extend freely, rename never.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdc.errors import KdcError
from kdc.files import read_json, write_atomically

SCHEMA: Literal["kdc.record/1"] = "kdc.record/1"


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=(), populate_by_name=True)


class Run(_Part):
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


class Cpu(_Part):
    model: str
    cores: int
    flags: list[str]


class Environment(_Part):
    python: str
    packages: dict[str, str]
    cpu: Cpu
    gpus: list[dict[str, Any]] = Field(default_factory=list)
    threads: int


class Dataset(_Part):
    name: str
    fingerprint: str
    splits: dict[str, int]
    labels: list[str]
    overlap: dict[str, int] = Field(default_factory=dict)
    """Rows of `validation`/`test` whose inputs also stand in train, by split."""


class TermAudit(_Part):
    """What one term of a loss comes to on one batch."""

    raw: float
    weighted: float
    share: float
    """Of the sum of all weighted terms' sizes."""
    gradient_norm: float
    """Of the weighted term, over the student's parameters."""
    gradient_share: float
    """Of the sum of all terms' norms."""


class Audit(_Part):
    """The terms of a loss by their keys, at one moment of the training."""

    step: int
    terms: dict[str, TermAudit]


class Train(_Part):
    epochs: float
    steps: int
    samples_per_second: float
    history: list[dict[str, float]] = Field(default_factory=list)
    resumed_at: int | None = None
    """The step at which this went on with the work of a run that was killed."""
    audit: list[Audit] = Field(default_factory=list)


class Stage(_Part):
    name: str
    key: str
    cached: bool
    wall_seconds: float
    train: Train | None = None
    notes: list[str] = Field(default_factory=list)


class Artifact(_Part):
    path: str
    sha256: str
    bytes: int
    """All files that ship, tokenizer or preprocessing included."""
    model_bytes: int
    """Without the tokenizer."""
    gzip_bytes: int
    files: dict[str, int]


class Count(_Part):
    total: int
    nonzero: int


class MacsCount(_Part):
    total: int
    int8: int = 0
    eligible: int = 0


class KernelCount(_Part):
    """How many kernels run for the operators of an artifact's files; zeros where its runtime does not tell."""

    operators: int = 0
    kernels: int = 0
    fused: dict[str, int] = Field(default_factory=dict)
    """Of the kernels those that stand for several operators, by kind."""


class MetricValue(_Part):
    value: float
    ci95: tuple[float, float] | None = None
    higher_is_better: bool = True
    primary: bool = False


class CalibrationBin(_Part):
    """Predictions whose confidence lies in `(low, high]`."""

    low: float
    high: float
    n: int
    confidence: float | None = None
    """Mean confidence; None where the bin is empty, as `accuracy` is."""
    accuracy: float | None = None


class Calibration(_Part):
    ece: float
    """Expected calibration error: mean gap between confidence and accuracy over the bins, weighted by their rows."""
    bins: list[CalibrationBin]


class Quality(_Part):
    split: str
    n: int
    metrics: dict[str, MetricValue]
    retained: float | None = None
    """Primary metric over the teacher's (the baseline's)."""
    agreement: dict[str, float] = Field(default_factory=dict)
    calibration: Calibration | None = None
    robustness: dict[str, MetricValue] = Field(default_factory=dict)
    """The primary metric on perturbed rows, by the perturbation's name."""


class Difference(_Part):
    """A metric of one variant minus another's, on the same rows."""

    value: float
    ci95: tuple[float, float] | None = None
    p: float | None = None
    p_adjusted: float | None = None
    """After the correction that the comparison names."""
    test: str
    """`McNemar, exact` or `paired bootstrap`."""


class Churn(_Part):
    """What became of single rows; a small change of the average can hide a large one here."""

    n: int
    right_to_wrong: int
    wrong_to_right: int
    changed: int
    """Rows that are answered otherwise, wrong before and after included."""


class GroupChange(_Part):
    """Quality on a part of the rows: those of a class (recall), of a range of lengths, of a value of a column."""

    by: str
    """`class`, `length` or a column's name."""
    group: str
    n: int
    value: float
    other: float
    difference: Difference


class Flip(_Part):
    """A row that one variant gets right and the other wrong."""

    row: int
    id: str
    truth: str
    answer: str
    other: str
    """What the other variant answers."""
    confidence: float | None = None
    inputs: dict[str, str] = Field(default_factory=dict)
    """What the model read, by column: a text, or a picture as a `data:image/png` address."""
    attributions: dict[str, list[tuple[str, float]]] = Field(default_factory=dict)
    """By variant: pieces of the input and how much each spoke for the variant's own answer, signed."""


Role = Literal["teacher", "before", "runtime"]


class Comparison(_Part):
    """One variant against another on the same test rows: what broke, and how sure that is."""

    against: str
    role: Role
    """Against the baseline teacher, the step before in the same runtime, or the same step in the first runtime."""
    metrics: dict[str, Difference]
    churn: Churn
    groups: list[GroupChange] = Field(default_factory=list)
    flips: list[Flip] = Field(default_factory=list)
    correction: str = ""
    """How p values were corrected for looking many times: `Holm over 23 tests`."""


class Versus(_Part):
    against: str
    ratio: float
    """How many times faster this variant is: p50 of `against` over its own."""
    ci95: tuple[float, float] | None = None


class Latency(_Part):
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


class Memory(_Part):
    peak_rss_bytes: int
    idle_rss_bytes: int
    """Of a Python process before it imports anything that serves."""
    loaded_rss_bytes: int | None = None
    """After the artifact was loaded, before its first call."""
    peak_gpu_bytes: int | None = None
    """The most that its tensors held on the GPU; None where it ran on the CPU."""


class Replicate(_Part):
    """One of several trainings that differ in their seed alone."""

    seed: int
    metrics: dict[str, float] = Field(default_factory=dict)
    key: str = ""
    """Of the stage that trained it."""


class Gain(_Part):
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


class Control(_Part):
    """The student's training without its teacher, on the same budget and with the same seeds."""

    name: Literal["hard labels", "from scratch"]
    """With the student's own initialization, or with one that carries nothing of the teacher."""
    description: str
    parameters: Count | None = None
    replicates: list[Replicate] = Field(default_factory=list)
    gains: dict[str, Gain] = Field(default_factory=dict)
    """By metric: the first variant that has replicates, against this control."""


class Variant(_Part):
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
    """The loaded artifact held against the torch model: argmax agreement, largest difference; and what processes that
    loaded it anew (`fresh_process`, a share of `fresh_rows`) answer as when quality was measured."""
    latency: list[Latency] = Field(default_factory=list)
    load_seconds: float | None = None
    first_call_ms: float | None = None
    memory: Memory | None = None
    replicates: list[Replicate] = Field(default_factory=list)
    """One a seed, the first being the variant itself."""


class Timing(_Part):
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


class RunRecord(_Part):
    schema_: Literal["kdc.record/1"] = Field(default=SCHEMA, alias="schema")
    run: Run
    environment: Environment | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    dataset: Dataset | None = None
    stages: list[Stage] = Field(default_factory=list)
    variants: list[Variant] = Field(default_factory=list)
    controls: list[Control] = Field(default_factory=list)
    timing: Timing | None = None
    baseline: str | None = None
    verdict: str | None = None
    gain_verdict: list[str] = Field(default_factory=list)
    """What the teacher was worth, a sentence a control."""
    notes: list[str] = Field(default_factory=list)

    def variant(self, name: str) -> Variant:
        return next(v for v in self.variants if v.name == name)

    def save(self, path: Path) -> None:
        write_atomically(path, self.model_dump_json(indent=2, by_alias=True) + "\n")

    @classmethod
    def load(cls, path: Path) -> RunRecord:
        """The record in a file or in a run's folder; KdcError where there is none, or a newer or damaged one."""
        file = path / "record.json" if path.is_dir() else path
        raw = read_json(file) if file.exists() else None
        kind, _, version = str(raw.get("schema") if isinstance(raw, dict) else None).partition("/")
        if kind != "kdc.record":
            raise KdcError(f"there is no record of a run in {path}", "name the folder of a run, or its record.json")
        if version.isdecimal() and int(version) > int(SCHEMA.partition("/")[2]):
            raise KdcError(f"{file}: {kind}/{version} is newer than this kdc reads ({SCHEMA})", "upgrade kdc")
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            said = "{0}: {msg}".format(".".join(map(str, error.errors()[0]["loc"])), **error.errors()[0])
            raise KdcError(f"{file} is damaged: {said}", "run it again") from error
