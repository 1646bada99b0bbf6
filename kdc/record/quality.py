"""What a variant answers: its metrics, and what it answers otherwise than another."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kdc.record.part import Part


class MetricValue(Part):
    value: float
    ci95: tuple[float, float] | None = None
    higher_is_better: bool = True
    primary: bool = False


class CalibrationBin(Part):
    """Predictions whose confidence lies in `(low, high]`."""

    low: float
    high: float
    n: int
    confidence: float | None = None
    """Mean confidence; None where the bin is empty, as `accuracy` is."""
    accuracy: float | None = None


class Calibration(Part):
    ece: float
    """Expected calibration error: mean gap between confidence and accuracy over the bins, weighted by their rows."""
    bins: list[CalibrationBin]


class Quality(Part):
    split: str
    n: int
    metrics: dict[str, MetricValue]
    retained: float | None = None
    """Primary metric over the teacher's (the baseline's)."""
    agreement: dict[str, float] = Field(default_factory=dict)
    calibration: Calibration | None = None
    robustness: dict[str, MetricValue] = Field(default_factory=dict)
    """The primary metric on perturbed rows, by the perturbation's name."""


class Difference(Part):
    """A metric of one variant minus another's, on the same rows."""

    value: float
    ci95: tuple[float, float] | None = None
    p: float | None = None
    p_adjusted: float | None = None
    """After the correction that the comparison names."""
    test: str
    """`McNemar, exact` or `paired bootstrap`."""


class Churn(Part):
    """What became of single rows; a small change of the average can hide a large one here."""

    n: int
    right_to_wrong: int
    wrong_to_right: int
    changed: int
    """Rows that are answered otherwise, wrong before and after included."""


class GroupChange(Part):
    """Quality on a part of the rows: those of a class (recall), of a range of lengths, of a value of a column."""

    by: str
    """`class`, `length` or a column's name."""
    group: str
    n: int
    value: float
    other: float
    difference: Difference


class Flip(Part):
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


class Comparison(Part):
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
