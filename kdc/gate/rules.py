"""The rules of a gate: YAML of one entry a subject, typed, with overrides from the command line. No torch.

A subject is `latency`, `bytes`, `memory`, the name of a metric, or `primary` for whatever metric the run was for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import PositiveInt, ValidationError, model_validator

from kdc.compose import config_dir, load_yaml, readable_errors
from kdc.errors import KdcError, did_you_mean
from kdc.gate.units import Bytes, Milliseconds, Percent, Points, Score
from kdc.problems import problems_of
from kdc.registry import Component

PRIMARY = "primary"
DEFAULT = "default"


class Rule(Component):
    """Limits on one subject; those that are null do not count."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not any(getattr(self, name) is not None for name in self.limits()):
            raise ValueError(f"limits nothing; give it {' or '.join(self.limits())}")
        return self

    @classmethod
    def limits(cls) -> list[str]:
        return [name for name in cls.model_fields if name.startswith(("max", "min"))]


class MetricRule(Rule):
    """A metric on the same test rows: how far it may get worse, and where it may lie."""

    max_drop: Points = None
    min: Score = None
    max: Score = None


class Cell(Component):
    """What is timed; whatever is null is as in the first workload that the run timed."""

    batch: PositiveInt | None = None
    length: PositiveInt | None = None
    threads: PositiveInt | None = None


class LatencyRule(Rule):
    """The median call. `max_slowdown` is against the baseline, timed beside it; less than `floor` never fails."""

    max_slowdown: Percent = None
    floor: Milliseconds = None
    max: Milliseconds = None
    workload: Cell = Cell()

    @model_validator(mode="after")
    def _has_a_slowdown_for_its_floor(self) -> Self:
        if self.floor is not None and self.max_slowdown is None:
            raise ValueError("floor changes nothing without max_slowdown; give both or neither (floor: null)")
        return self


class SizeRule(Rule):
    """Bytes, on disk or of memory at its peak."""

    max_growth: Percent = None
    max: Bytes = None


@dataclass(frozen=True)
class Rules:
    """What a gate checks: `metrics` by name."""

    metrics: Mapping[str, MetricRule]
    latency: LatencyRule | None = None
    bytes: SizeRule | None = None
    memory: SizeRule | None = None


SUBJECTS: Mapping[str, type[Rule]] = {"latency": LatencyRule, "bytes": SizeRule, "memory": SizeRule}


def load_rules(name: str = DEFAULT, overrides: Sequence[str] = ()) -> Rules:
    """The rules that are shipped as `name`, or those of a YAML file, after `subject.key=value` overrides.

    All that is wrong with them is one KdcError.
    """
    raw = _read(name)
    for word in overrides:
        _override(raw, word)
    found: dict[str, Rule] = {}
    wrong: list[str] = []
    for subject, settings in raw.items():
        if settings is None:
            continue
        try:
            found[subject] = SUBJECTS.get(subject, MetricRule).model_validate(settings)
        except ValidationError as error:
            wrong += _said(error, subject, settings)
    if wrong:
        raise KdcError("\n  ".join(wrong if len(wrong) == 1 else [f"{len(wrong)} problems in the rules:", *wrong]))
    if not found:
        raise KdcError(f"the rules '{name}' have no rule left", "name one, such as primary.max_drop=1pp")
    metrics = {subject: rule for subject, rule in found.items() if isinstance(rule, MetricRule)}
    return Rules(metrics, **{subject: rule for subject, rule in found.items() if subject not in metrics})  # type: ignore[arg-type]


def shipped() -> list[str]:
    """The names of the rules that come with kdc."""
    return sorted(path.stem for path in (config_dir() / "gate").glob("*.yaml"))


def _read(name: str) -> dict[str, Any]:
    path = Path(name) if name.endswith((".yaml", ".yml")) else config_dir() / "gate" / f"{name}.yaml"
    if not path.is_file():
        if path == Path(name):
            raise KdcError(f"--rules: no file {name}", f"name one, or take shipped rules: {', '.join(shipped())}")
        raise KdcError(
            f"--rules: no rules are called '{name}'", f"{did_you_mean(name, shipped())} or name a .yaml file"
        )
    with readable_errors():
        return {str(subject): settings for subject, settings in load_yaml(path).items()}


def _override(raw: dict[str, Any], word: str) -> None:
    import yaml

    path, equals, text = word.partition("=")
    *owners, key = path.split(".")
    if not equals or not all(owners) or not key:
        raise KdcError(f"'{word}' is no override", "write it like latency.max_slowdown=10%, or latency=null")
    place = raw
    for owner in owners:
        if not isinstance(place.get(owner), dict):
            place[owner] = {}
        place = place[owner]
    try:
        place[key] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise KdcError(f"{path}: {text!r} is no YAML value", "write it like latency.max_slowdown=10%") from error


def _said(error: ValidationError, subject: str, settings: Any) -> Iterator[str]:
    if subject not in SUBJECTS and (near := did_you_mean(subject, SUBJECTS)).startswith("did"):
        yield f"{subject}: no such rule; {near}"
        return
    for key, problem in problems_of(error, SUBJECTS.get(subject, MetricRule), settings, subject):
        yield f"{key}: {problem}"
