"""Every schedule against numbers worked out by hand, in time and by the teacher's confidence; and what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel, ValidationError
from scipy.special import rel_entr, softmax

from kdc.distill.schedules import Alpha, Scheduled, Temperature, Weight, asks_confidence, extremes, value_at
from kdc.distill.terms.base import Batch, Term
from kdc.distill.terms.logits import ForwardKL, HardLabels
from tests.distill.trainings import teacher_signals


@dataclass
class At:
    """A moment of a training, with three rows of which the teacher is unsure, half sure and sure."""

    progress: float = 0.0

    @property
    def confidence(self) -> torch.Tensor:
        return torch.tensor([0, 0.5, 1])


class Settings(BaseModel):
    """What a term's fields are like."""

    any: Scheduled = 1.0
    weight: Weight = 1.0
    temperature: Temperature = 1.0
    alpha: Alpha = 0.5


def setting(**fields: Any) -> Scheduled:
    return Settings.model_validate({"any": fields}).any


LINEAR = {"schedule": "linear", "start": 2, "end": 4}
COSINE = {"schedule": "cosine", "start": 2, "end": 4}
EXPONENTIAL = {"schedule": "exponential", "start": 1, "end": 16}
STEP = {"schedule": "step", "values": [3, 1, 2], "moments": [0.25, 0.75]}
PHASES = {"schedule": "phases", "phases": [{"until": 0.5, "value": LINEAR}, {"until": 1, "value": 7}]}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"schedule": "constant", "value": 3}, {0: 3, 0.5: 3, 1: 3}),
        (LINEAR, {0: 2, 0.25: 2.5, 0.5: 3, 1: 4}),
        (LINEAR | {"start": 4, "end": 0}, {0: 4, 0.25: 3, 0.5: 2, 1: 0}),
        (LINEAR | {"begin": 0.5}, {0: 2, 0.5: 2, 0.75: 3, 1: 4}),
        (LINEAR | {"begin": 0.2, "until": 0.6}, {0.1: 2, 0.3: 2.5, 0.4: 3, 0.6: 4, 0.9: 4}),
        (COSINE, {0: 2, 0.25: 3 - math.sqrt(0.5), 0.5: 3, 0.75: 3 + math.sqrt(0.5), 1: 4}),
        (COSINE | {"until": 0.5}, {0: 2, 0.25: 3, 0.5: 4, 1: 4}),
        (EXPONENTIAL, {0: 1, 0.25: 2, 0.5: 4, 0.75: 8, 1: 16}),
        (EXPONENTIAL | {"start": 8, "end": 0.5, "begin": 0.5}, {0.5: 8, 0.75: 2, 1: 0.5}),
        (STEP, {0: 3, 0.24: 3, 0.25: 1, 0.5: 1, 0.75: 2, 1: 2}),
        ({"schedule": "step", "values": [3], "moments": []}, {0: 3, 1: 3}),
        (PHASES, {0: 2, 0.25: 3, 0.49: 3.96, 0.5: 7, 1: 7}),
        (
            {"schedule": "phases", "phases": [{"until": 0.5, "value": 0}, {"until": 1, "value": PHASES}]},
            {0: 0, 0.49: 0, 0.5: 2, 0.625: 3, 0.75: 7, 1: 7},
        ),
    ],
)
def test_values(fields: dict[str, Any], expected: dict[float, float]) -> None:
    schedule = setting(**fields)
    assert {progress: value_at(schedule, At(progress)) for progress in expected} == pytest.approx(expected)


def test_a_number_is_the_same_throughout() -> None:
    assert value_at(0.5, At(0.9)) == 0.5


def test_by_the_teachers_confidence() -> None:
    schedule = setting(schedule="confidence", unsure=4, sure=1)
    assert value_at(schedule, At()).tolist() == [4, 2.5, 1]  # type: ignore[union-attr]
    in_phases = setting(schedule="phases", phases=[{"until": 0.5, "value": 1}, {"until": 1, "value": schedule}])
    assert value_at(in_phases, At(0.2)) == 1
    assert value_at(in_phases, At(0.7)).tolist() == [4, 2.5, 1]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (LINEAR, (2, 4)),
        (COSINE | {"start": 5}, (4, 5)),
        (EXPONENTIAL, (1, 16)),
        (STEP, (1, 3)),
        (PHASES, (2, 7)),
        ({"schedule": "constant", "value": 3}, (3, 3)),
        ({"schedule": "confidence", "unsure": 4, "sure": 1}, (1, 4)),
    ],
)
def test_extremes_are_reached_and_never_passed(fields: dict[str, Any], expected: tuple[float, float]) -> None:
    schedule = setting(**fields)
    assert extremes(schedule) == expected
    seen = np.array([value_at(schedule, At(progress)) for progress in np.linspace(0, 1, 101)])
    assert (seen.min(), seen.max()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (LINEAR | {"until": 1.5}, "less than or equal to 1"),
        (LINEAR | {"begin": -0.1}, "greater than or equal to 0"),
        (LINEAR | {"begin": 0.5, "until": 0.5}, r"begin must lie before until \(got 0.5 and 0.5\)"),
        (COSINE | {"begin": 0.6, "until": 0.5}, "begin must lie before until"),
        (EXPONENTIAL | {"end": 0}, r"must be above 0 \(got 1 and 0\)"),
        (EXPONENTIAL | {"start": -1}, "must be above 0"),
        (STEP | {"values": [3, 1]}, r"one value more than moments \(got 2 values, 2 moments\)"),
        (STEP | {"moments": [0.75, 0.25]}, r"moments must increase \(got 0.75, 0.25\)"),
        (STEP | {"moments": [0, 0.5]}, "greater than 0"),
        (STEP | {"moments": [0.5, 1]}, "less than 1"),
        ({"schedule": "phases", "phases": []}, "at least 1 item"),
        ({"schedule": "phases", "phases": [{"until": 0.9, "value": 1}]}, r"must last until 1, the end \(got 0.9\)"),
        (
            {"schedule": "phases", "phases": [{"until": 0, "value": 1}, {"until": 1, "value": 2}]},
            "greater than 0",
        ),
        (
            {"schedule": "phases", "phases": [{"until": u, "value": 1} for u in (0.6, 0.5, 1)]},
            r"until must increase \(got 0.6, 0.5, 1\)",
        ),
        ({"schedule": "phases", "phases": [{"until": 1.2, "value": 1}]}, "less than or equal to 1"),
        ({"schedule": "linear", "start": 1}, "required"),
        ({"schedule": "linaer", "start": 1, "end": 0}, "linaer"),
        (LINEAR | {"start": float("nan")}, "finite"),
        (LINEAR | {"length": 3}, "not permitted"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        setting(**fields)


UNDER_ZERO = [
    -1,
    LINEAR | {"end": -1},
    COSINE | {"start": -1},
    STEP | {"values": [3, -1, 2]},
    {"schedule": "confidence", "unsure": 1, "sure": -1},
    {"schedule": "phases", "phases": [{"until": 0.5, "value": 1}, {"until": 1, "value": LINEAR | {"end": -1}}]},
]


@pytest.mark.parametrize("value", UNDER_ZERO)
def test_what_must_not_be_negative_never_is(value: Any) -> None:
    with pytest.raises(ValidationError, match=r"must be at least 0 at all times \(got -1\)"):
        Settings(weight=value)
    with pytest.raises(ValidationError, match=r"must be above 0 at all times \(got -1\)"):
        Settings(temperature=value)
    with pytest.raises(ValidationError, match="must be at least 0"):
        Settings(alpha=value)
    Settings.model_validate({"any": value})


def test_a_temperature_is_never_zero_and_an_alpha_never_above_one() -> None:
    zero_at_last = {"schedule": "linear", "start": 2, "end": 0}
    with pytest.raises(ValidationError, match=r"must be above 0 at all times \(got 0\)"):
        Settings.model_validate({"temperature": zero_at_last})
    assert extremes(Settings.model_validate({"weight": zero_at_last}).weight) == (0, 2)
    with pytest.raises(ValidationError, match=r"must be at most 1 at all times \(got 2\)"):
        Settings.model_validate({"alpha": zero_at_last})


def test_a_schedule_survives_its_own_dump() -> None:
    settings = Settings.model_validate({"any": PHASES, "weight": LINEAR})
    assert Settings.model_validate_json(settings.model_dump_json()) == settings


STUDENT = np.random.default_rng(0).normal(0, 1.5, (5, 3))
TEACHER = np.random.default_rng(1).normal(0, 2.5, (5, 3))
CONFIDENCE = {"schedule": "confidence", "unsure": 1, "sure": 4}


def row_by_row(term: Term) -> np.ndarray:
    """The weighted values, as the distiller has them before it takes the mean."""
    batch = Batch({"logits": torch.tensor(STUDENT)}, {"logits": torch.tensor(TEACHER)})
    return (value_at(term.weight, batch) * term.loss(batch)).numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize("by_confidence", ["temperature", "weight"])
def test_confidence_example_by_example(by_confidence: str) -> None:
    """(p_max - 1/3) / (1 - 1/3) of three classes, from the teacher's own probabilities at T = 1."""
    sure = (softmax(TEACHER, axis=-1).max(axis=-1) - 1 / 3) * 3 / 2
    assert sure.min() > 0.05
    assert sure.max() < 1
    plain = {"temperature": 2.0, "weight": 1.5}
    values = plain | {by_confidence: 1 + 3 * sure}
    temperature = np.broadcast_to(values["temperature"], 5)[:, None]
    kl = rel_entr(softmax(TEACHER / temperature, axis=-1), softmax(STUDENT / temperature, axis=-1)).sum(axis=-1)
    term = ForwardKL.model_validate({"name": "kl", **plain, by_confidence: CONFIDENCE})
    np.testing.assert_allclose(row_by_row(term), values["weight"] * temperature[:, 0] ** 2 * kl)


def test_the_teacher_is_asked_where_its_confidence_counts() -> None:
    in_phases = {"schedule": "phases", "phases": [{"until": 1, "value": CONFIDENCE}]}
    assert asks_confidence(setting(**CONFIDENCE))
    assert asks_confidence(setting(**in_phases))
    assert not asks_confidence(setting(**PHASES))
    assert not asks_confidence(2.0)
    assert teacher_signals([HardLabels(name="hard")]) == ()
    assert teacher_signals([HardLabels.model_validate({"name": "hard", "weight": in_phases})]) == ("logits",)


def test_a_weight_of_zero_throughout_switches_a_term_off() -> None:
    off = [0, {"schedule": "constant", "value": 0}, LINEAR | {"start": 0, "end": 0}]
    on = [1, LINEAR | {"end": 0}, PHASES]
    for weight in off:
        assert ForwardKL.model_validate({"name": "kl", "weight": weight}).is_off
    for weight in on:
        assert not ForwardKL.model_validate({"name": "kl", "weight": weight}).is_off
