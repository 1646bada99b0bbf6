"""Loss terms against their formulas in NumPy, and the module that weighs them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from kdc.distill.distiller import Distiller
from kdc.distill.terms.base import TERMS, Signals, Term, teacher_signals
from kdc.distill.terms.logits import ForwardKL, HardLabels
from kdc.errors import KdcError
from tests import tiny

STUDENT = np.array([[2.0, -1.0, 0.5], [0.1, 0.2, -0.3], [3.0, 3.0, -2.0], [-1.0, 0.0, 1.0]])
TEACHER = np.array([[4.0, 0.0, -1.0], [-0.5, 1.5, 0.0], [1.0, 5.0, 0.0], [0.0, 0.0, 0.0]])
LABELS = np.array([0, 1, 1, 2])


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def kl(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    """T² · mean over rows of sum p_t (log p_t - log p_s)."""
    log_s, log_t = log_softmax(student / temperature), log_softmax(teacher / temperature)
    return float(temperature**2 * (np.exp(log_t) * (log_t - log_s)).sum(axis=-1).mean())


def value(term: Any, student: np.ndarray = STUDENT, teacher: np.ndarray = TEACHER) -> float:
    signals = [{"logits": torch.tensor(logits, dtype=torch.float32)} for logits in (student, teacher)]
    return float(term.loss(*signals, torch.tensor(LABELS)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
def test_forward_kl_is_its_formula(temperature: float) -> None:
    term = ForwardKL(name="kl", temperature=temperature)
    assert value(term) == pytest.approx(kl(STUDENT, TEACHER, temperature), rel=1e-5)
    if temperature != 1.0:
        assert value(term) != pytest.approx(kl(STUDENT, TEACHER, temperature) / temperature**2, rel=1e-2)


def test_forward_kl_by_hand() -> None:
    """Teacher (1/2, 1/2), student (3/4, 1/4), T = 1: half of ln(2/3) and of ln 2, together ln(4/3) / 2."""
    student, teacher = np.log([[0.75, 0.25]]), np.log([[0.5, 0.5]])
    assert value(ForwardKL(name="kl", temperature=1.0), student, teacher) == pytest.approx(np.log(4 / 3) / 2, rel=1e-5)


def test_forward_kl_is_forward() -> None:
    term = ForwardKL(name="kl", temperature=1.0)
    assert value(term, TEACHER, STUDENT) == pytest.approx(kl(TEACHER, STUDENT, 1.0), rel=1e-5)
    assert abs(kl(TEACHER, STUDENT, 1.0) - kl(STUDENT, TEACHER, 1.0)) > 0.1


def test_temperature_leaves_the_gradients_size_nearly_alone() -> None:
    """Why the factor T² is there: without it the gradient at T = 20 would be 400 times smaller than that of T = 1."""
    sizes = []
    for temperature in (5.0, 20.0):
        student = torch.tensor(STUDENT, requires_grad=True)
        ForwardKL(name="kl", temperature=temperature).loss(
            {"logits": student}, {"logits": torch.tensor(TEACHER)}, None
        ).backward()
        sizes.append(float(student.grad.norm()))  # type: ignore[union-attr]
    assert sizes[1] / sizes[0] == pytest.approx(1, abs=0.2)


def test_equal_logits_up_to_a_constant_have_no_divergence() -> None:
    assert value(ForwardKL(name="kl"), TEACHER + 3, TEACHER) == pytest.approx(0, abs=1e-6)


def test_hard_labels_are_cross_entropy() -> None:
    wanted = -log_softmax(STUDENT)[np.arange(4), LABELS].mean()
    assert value(HardLabels(name="hard")) == pytest.approx(wanted, rel=1e-5)


def test_hard_labels_of_tokens_leave_padding_out() -> None:
    """Two rows of two tokens, the last one padding."""
    tokens, labels = torch.tensor(STUDENT, dtype=torch.float32).view(2, 2, 3), torch.tensor([[0, 1], [1, -100]])
    wanted = -log_softmax(STUDENT)[np.arange(3), LABELS[:3]].mean()
    assert float(HardLabels(name="hard").loss({"logits": tokens}, {}, labels)) == pytest.approx(wanted, rel=1e-5)


def test_terms_compute_in_float32_whatever_they_get() -> None:
    signals = [{"logits": torch.tensor(logits, dtype=torch.bfloat16)} for logits in (STUDENT, TEACHER)]
    for term in (ForwardKL(name="kl"), HardLabels(name="hard")):
        assert term.loss(*signals, torch.tensor(LABELS)).dtype == torch.float32


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings in ({"temperature": 0}, {"temperature": -1}, {"weight": -0.1}, {"weight": float("nan")}, {"heat": 2}):
        with pytest.raises(ValidationError):
            ForwardKL.model_validate({"name": "kl", **settings})
    assert {"kl", "hard"} <= set(TERMS)
    assert [(TERMS[n].needs_teacher, TERMS[n].needs_labels) for n in ("kl", "hard")] == [(True, False), (False, True)]


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(STUDENT, dtype=torch.float32))

    def forward(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.logits[rows]}


def test_the_distiller_adds_weighted_terms_and_drain_says_what_each_was() -> None:
    distiller = Distiller(
        Student(), {"kl": ForwardKL(name="kl", weight=0.25, temperature=3), "hard": HardLabels(name="hard", weight=2)}
    )
    labels, teacher = torch.tensor(LABELS), torch.tensor(TEACHER, dtype=torch.float32)
    raw = {"kl": [], "hard": []}
    for rows in (torch.tensor([0, 1]), torch.tensor([2, 3])):
        loss = distiller({"rows": rows}, labels[rows], {"logits": teacher[rows]})["loss"]
        raw["kl"].append(kl(STUDENT[rows], TEACHER[rows], 3))
        raw["hard"].append(-log_softmax(STUDENT[rows])[np.arange(2), LABELS[rows]].mean())
        assert float(loss.detach()) == pytest.approx(0.25 * raw["kl"][-1] + 2 * raw["hard"][-1], rel=1e-5)
    wanted = {
        "kl": np.mean(raw["kl"]),
        "kl_weighted": 0.25 * np.mean(raw["kl"]),
        "hard": np.mean(raw["hard"]),
        "hard_weighted": 2 * np.mean(raw["hard"]),
    }
    assert distiller.drain() == pytest.approx(wanted, rel=1e-5)
    assert distiller.drain() == {}
    assert [name for name, _ in distiller.named_parameters()] == ["student.logits"]


class Probe(Term):
    """Keeps what it is given."""

    reads: ClassVar[frozenset[str]] = frozenset({"hidden_states", "attentions"})
    needs_teacher: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    name: Literal["probe"] = "probe"
    seen: ClassVar[list[Any]] = []

    def loss(self, student: Signals, teacher: Signals, labels: torch.Tensor | None) -> torch.Tensor:
        self.seen.append((student, labels))
        return student["hidden_states"][-1].mean()


def test_terms_get_the_signals_that_they_read_and_labels_only_if_they_need_them() -> None:
    rows = tiny.sentences(6)
    built = tiny.built_bert(rows, layers=3)
    arrays = built.encoder.collate(built.encoder.encode(rows))
    inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    batch, length = inputs["input_ids"].shape
    with torch.no_grad():
        wanted = built.model(**inputs, output_hidden_states=True).hidden_states
    probe = Probe()
    distiller = Distiller(built.model, {"probe": probe, "hard": HardLabels(name="hard")})
    distiller(inputs, torch.tensor(rows["label"]))["loss"].backward()
    [(said, labels)] = probe.seen
    assert labels is None
    assert set(said) == {"logits", "hidden_states", "attentions"}
    assert [tuple(attention.shape) for attention in said["attentions"]] == [(batch, 2, length, length)] * 3
    assert len(said["hidden_states"]) == 4
    for got, alone in zip(said["hidden_states"], wanted, strict=True):
        torch.testing.assert_close(got.detach(), alone, atol=1e-4, rtol=1e-4)


def test_a_student_is_not_asked_for_what_no_term_reads() -> None:
    rows = tiny.sentences(4)
    built, seen = tiny.built_bert(rows), []
    built.model.register_forward_hook(lambda module, args, kwargs, out: seen.append((kwargs, out)), with_kwargs=True)
    inputs = {name: torch.from_numpy(a) for name, a in built.encoder.collate(built.encoder.encode(rows)).items()}
    Distiller(built.model, {"hard": HardLabels(name="hard")})(inputs, torch.tensor(rows["label"]))
    [(asked, outputs)] = seen
    assert set(asked) == set(inputs)
    assert set(outputs) == {"logits"}
    assert built.model.config._attn_implementation == "sdpa"


def test_a_signal_that_the_student_does_not_have_is_refused() -> None:
    pictures = tiny.pictures(4)
    net = tiny.built_net(pictures, "mlp")
    inputs = {name: torch.from_numpy(a) for name, a in net.encoder.collate(net.encoder.encode(pictures)).items()}
    with pytest.raises(KdcError, match=r"loss\.terms\.mine reads \w+, which the student does not put out") as caught:
        Distiller(net.model, {"mine": Probe()})(inputs)
    assert "loss.terms.mine=null" in caught.value.remedy


def test_the_teacher_is_asked_only_by_terms_that_need_it() -> None:
    assert teacher_signals([HardLabels(name="hard")]) == ()
    assert teacher_signals([ForwardKL(name="kl"), HardLabels(name="hard")]) == ("logits",)
    assert teacher_signals([Probe(), ForwardKL(name="kl")]) == ("attentions", "hidden_states", "logits")
