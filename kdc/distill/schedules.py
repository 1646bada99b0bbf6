"""Values that change while a model trains: any weight, temperature or alpha of a loss term. No torch.

A schedule is a function of progress, the share of the training that is done; `confidence` is one of the teacher.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from kdc.registry import Component

if TYPE_CHECKING:
    from torch import Tensor

Share = Annotated[float, Field(ge=0, le=1)]
"""A moment of the training, as the share of its steps that are done."""


class Moment(Protocol):
    """Where a training stands, as far as schedules look at it."""

    @property
    def progress(self) -> float:
        """The share of the training that is done, in [0, 1)."""

    @property
    def confidence(self) -> Tensor:
        """How sure the teacher is of each row, `[rows]` from 0 (all classes alike) to 1."""


class Schedule(Component):
    """A value that is not the same throughout."""

    @abstractmethod
    def at(self, moment: Moment) -> float | Tensor:
        """The value now: one for all rows, or `[rows]`."""

    @abstractmethod
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest value it takes."""


class Constant(Schedule):
    """The same throughout."""

    schedule: Literal["constant"]
    value: float

    def at(self, moment: Moment) -> float:
        return self.value

    def extremes(self) -> tuple[float, float]:
        return self.value, self.value


class Ramp(Schedule):
    """From `start` to `end` between the moments `begin` and `until`, constant before and after."""

    start: float
    end: float
    begin: Share = 0.0
    until: Share = 1.0

    @model_validator(mode="after")
    def _in_order(self) -> Ramp:
        if self.begin >= self.until:
            raise ValueError(f"begin must lie before until (got {self.begin:g} and {self.until:g})")
        return self

    @abstractmethod
    def along(self, share: float) -> float:
        """The value when this share of the way is done."""

    def at(self, moment: Moment) -> float:
        return self.along(min(1.0, max(0.0, (moment.progress - self.begin) / (self.until - self.begin))))

    def extremes(self) -> tuple[float, float]:
        return min(self.start, self.end), max(self.start, self.end)


class Linear(Ramp):
    """At an even pace."""

    schedule: Literal["linear"]

    def along(self, share: float) -> float:
        return self.start + (self.end - self.start) * share


class Cosine(Ramp):
    """Along half a cosine: slow at both ends."""

    schedule: Literal["cosine"]

    def along(self, share: float) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * share)) / 2


class Exponential(Ramp):
    """By the same factor in equal times."""

    schedule: Literal["exponential"]

    @model_validator(mode="after")
    def _positive(self) -> Exponential:
        if min(self.start, self.end) <= 0:
            raise ValueError(f"start and end of an exponential must be above 0 (got {self.start:g} and {self.end:g})")
        return self

    def along(self, share: float) -> float:
        return float(self.start * (self.end / self.start) ** share)


class Step(Schedule):
    """`values[0]` until the first of `moments`, then `values[1]` until the second, and so on."""

    schedule: Literal["step"]
    values: list[float]
    moments: list[Annotated[float, Field(gt=0, lt=1)]]

    @model_validator(mode="after")
    def _fit(self) -> Step:
        if len(self.values) != len(self.moments) + 1:
            raise ValueError(
                f"needs one value more than moments (got {len(self.values)} values, {len(self.moments)} moments)"
            )
        _increasing("moments", self.moments)
        return self

    def at(self, moment: Moment) -> float:
        return self.values[sum(moment.progress >= change for change in self.moments)]

    def extremes(self) -> tuple[float, float]:
        return min(self.values), max(self.values)


class Phase(Component):
    """One part of a training: its value, a schedule of its own that runs within the phase among them."""

    until: Annotated[float, Field(gt=0, le=1)]
    value: Scheduled


class Phases(Schedule):
    """Phases one after the other, the last until the end of the training."""

    schedule: Literal["phases"]
    phases: Annotated[list[Phase], Field(min_length=1)]

    @model_validator(mode="after")
    def _whole(self) -> Phases:
        _increasing("until", [phase.until for phase in self.phases])
        if self.phases[-1].until != 1:
            raise ValueError(f"the last phase must last until 1, the end (got {self.phases[-1].until:g})")
        return self

    def at(self, moment: Moment) -> float | Tensor:
        begin = 0.0
        for phase in self.phases:
            if moment.progress < phase.until or phase.until == 1:
                within = (moment.progress - begin) / (phase.until - begin)
                return value_at(phase.value, _Within(moment, min(within, 1.0)))
            begin = phase.until
        raise AssertionError("the last phase lasts until the end")

    def extremes(self) -> tuple[float, float]:
        ends = [extremes(phase.value) for phase in self.phases]
        return min(low for low, _ in ends), max(high for _, high in ends)


class Confidence(Schedule):
    """Another value for every example: `unsure` where the teacher takes all classes for alike, `sure` where it is
    certain of one, and in between in proportion to its confidence, (p_max - 1/C) / (1 - 1/C) of C classes."""

    schedule: Literal["confidence"]
    unsure: float
    sure: float

    def at(self, moment: Moment) -> Tensor:
        return self.unsure + (self.sure - self.unsure) * moment.confidence

    def extremes(self) -> tuple[float, float]:
        return min(self.unsure, self.sure), max(self.unsure, self.sure)


def _kind(setting: Any) -> str:
    """What a setting is meant to be: of a union that did not know, every member would say what it disliked."""
    return "settings" if isinstance(setting, Mapping | Schedule) else "number"


Named = Annotated[
    Constant | Linear | Cosine | Exponential | Step | Phases | Confidence, Field(discriminator="schedule")
]
Scheduled = Annotated[Annotated[float, Tag("number")] | Annotated[Named, Tag("settings")], Discriminator(_kind)]
"""A number, or `{schedule: linear, start: 1, end: 0}` and its like."""


def _at_least(low: float, high: float = math.inf, *, open_low: bool = False) -> Any:
    def check(setting: Scheduled) -> Scheduled:
        smallest, largest = extremes(setting)
        if smallest < low or (open_low and smallest == low):
            raise ValueError(f"must be {'above' if open_low else 'at least'} {low:g} at all times (got {smallest:g})")
        if largest > high:
            raise ValueError(f"must be at most {high:g} at all times (got {largest:g})")
        return setting

    return AfterValidator(check)


Weight = Annotated[Scheduled, _at_least(0)]
Temperature = Annotated[Scheduled, _at_least(0, open_low=True)]
Alpha = Annotated[Scheduled, _at_least(0, 1)]


def value_at(setting: Scheduled, moment: Moment) -> float | Tensor:
    """What a setting is at this moment."""
    return setting.at(moment) if isinstance(setting, Schedule) else setting


def extremes(setting: Scheduled) -> tuple[float, float]:
    """The smallest and the largest value that a setting takes."""
    return setting.extremes() if isinstance(setting, Schedule) else (setting, setting)


def asks_confidence(setting: Any) -> bool:
    """Whether a setting differs from example to example by the teacher's confidence."""
    if isinstance(setting, Phases):
        return any(asks_confidence(phase.value) for phase in setting.phases)
    return isinstance(setting, Confidence)


class _Within:
    """A moment as it is seen inside a phase."""

    def __init__(self, moment: Moment, progress: float) -> None:
        self._moment, self.progress = moment, progress

    @property
    def confidence(self) -> Tensor:
        return self._moment.confidence


def _increasing(name: str, moments: Sequence[float]) -> None:
    if any(later <= earlier for earlier, later in pairwise(moments)):
        raise ValueError(f"{name} must increase (got {', '.join(f'{moment:g}' for moment in moments)})")


Phase.model_rebuild()
Phases.model_rebuild()
