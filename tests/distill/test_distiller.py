"""The module that weighs a student's terms: what they are given, how they add up, and what of it ships."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from torch import Tensor, nn

from kdc.distill.distiller import Distiller
from kdc.distill.terms.base import TERMS, Batch, Term
from kdc.errors import KdcError
from kdc.models.taps import Outline
from tests import tiny
from tests.distill.trainings import teacher_signals

RNG = np.random.default_rng(5)
STUDENT, TEACHER = RNG.normal(0, 1.5, (4, 3)).astype(np.float32), RNG.normal(0, 2.5, (4, 3)).astype(np.float32)
LABELS = np.array([0, 1, 1, 2])


class Student(nn.Module):
    """Whose answers are its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(STUDENT))

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        return {"logits": self.logits[rows]}


def term(name: str, **settings: Any) -> Term:
    return TERMS[name].model_validate({"name": name, **settings})


def loss_of(distiller: Distiller, rows: Any = range(4), **more: Any) -> float:
    rows = torch.tensor(list(rows))
    teacher = {"logits": torch.tensor(TEACHER)[rows]}
    return float(distiller({"rows": rows}, torch.tensor(LABELS)[rows], teacher, **more)["loss"].detach())


def kl(rows: Any = slice(None)) -> np.ndarray:
    """At T = 2, row by row."""
    return 4 * rel_entr(softmax(TEACHER[rows] / 2, axis=-1), softmax(STUDENT[rows] / 2, axis=-1)).sum(axis=-1)


def hard(rows: Any = slice(None)) -> np.ndarray:
    return -log_softmax(STUDENT[rows], axis=-1)[np.arange(len(LABELS[rows])), LABELS[rows]]


def test_the_loss_is_the_weighted_sum_and_drain_says_what_each_term_was() -> None:
    distiller = Distiller(Student(), {"kl": term("kl", weight=0.25), "hard": term("hard", weight=2)})
    for rows in ([0, 1], [2, 3]):
        assert loss_of(distiller, rows) == pytest.approx(0.25 * kl(rows).mean() + 2 * hard(rows).mean(), rel=1e-5)
    wanted = {
        "loss": 0.25 * kl().mean() + 2 * hard().mean(),
        "kl": kl().mean(),
        "kl_weighted": 0.25 * kl().mean(),
        "hard": hard().mean(),
        "hard_weighted": 2 * hard().mean(),
    }
    assert distiller.drain() == pytest.approx(wanted, rel=1e-5)
    assert distiller.drain() == {}


def test_gradients_are_those_of_the_weighted_sum() -> None:
    distiller = Distiller(Student(), {"hard": term("hard", weight=2)})
    rows = torch.arange(4)
    distiller({"rows": rows}, torch.tensor(LABELS))["loss"].backward()
    wanted = 2 * (softmax(STUDENT, axis=-1) - np.eye(3)[LABELS]) / 4
    np.testing.assert_allclose(distiller.student.logits.grad, wanted, rtol=1e-5, atol=1e-7)


def test_parts_of_a_batch_count_by_their_share() -> None:
    """Three rows and one, as a batch in two parts that counts as one: shares 2 * 3/4 and 2 * 1/4 of their mean."""
    distiller = Distiller(Student(), {"kl": term("kl")})
    parts = [loss_of(distiller, [0, 1, 2], share=1.5), loss_of(distiller, [3], share=0.5)]
    assert np.mean(parts) == pytest.approx(kl().mean(), rel=1e-5)
    assert distiller.drain() == pytest.approx(dict.fromkeys(("loss", "kl", "kl_weighted"), kl().mean()), rel=1e-5)


def test_sums_are_kept_and_taken_up_again() -> None:
    whole, first = (Distiller(Student(), {"kl": term("kl", weight=3)}) for _ in range(2))
    for rows in ([0, 1], [2, 3]):
        loss_of(whole, rows)
    loss_of(first, [0, 1])
    second = Distiller(Student(), {"kl": term("kl", weight=3)})
    second.restore(first.sums())
    loss_of(second, [2, 3])
    assert second.drain() == pytest.approx(whole.drain(), rel=1e-6)


def test_progress_changes_a_scheduled_weight() -> None:
    fading = {"schedule": "linear", "start": 2, "end": 0}
    distiller = Distiller(Student(), {"kl": term("kl", weight=fading), "hard": term("hard")})
    for progress, weight in ((0.0, 2), (0.25, 1.5), (0.5, 1), (1.0, 0)):
        distiller.progress = progress
        assert loss_of(distiller) == pytest.approx(weight * kl().mean() + hard().mean(), rel=1e-5)


def test_a_weight_by_confidence_counts_row_by_row() -> None:
    sure = (softmax(TEACHER, axis=-1).max(axis=-1) - 1 / 3) * 3 / 2
    by_confidence = {"schedule": "confidence", "unsure": 0, "sure": 3}
    distiller = Distiller(Student(), {"kl": term("kl", weight=by_confidence)})
    wanted = (3 * sure * kl()).mean()
    assert abs(wanted - 3 * sure.mean() * kl().mean()) > 0.05
    assert loss_of(distiller) == pytest.approx(wanted, rel=1e-5)
    assert distiller.drain() == pytest.approx({"loss": wanted, "kl": kl().mean(), "kl_weighted": wanted}, rel=1e-5)


class Probe(Term):
    """Keeps what it is given, and trains a projection."""

    reads: ClassVar[frozenset[str]] = frozenset({"hidden_states", "attentions"})
    reads_of_teacher: ClassVar[frozenset[str]] = frozenset({"features"})
    name: Literal["probe"] = "probe"
    seen: ClassVar[list[tuple[Batch, Any]]] = []

    def head(self, student: Outline, teacher: Outline) -> nn.Module:
        return nn.Linear(student.width("hidden_states"), teacher.width("features"))

    def loss(self, batch: Batch, head: nn.Module | None = None) -> Tensor:
        self.seen.append((batch, head))
        said: Tensor = batch.student["hidden_states"][-1]
        return (said if head is None else head(said)).flatten(1).mean(dim=1)


OUTLINES = Outline("s", {"hidden_states": ((2, 5, 32),)}), Outline("t", {"features": ((2, 7),)})


@pytest.fixture
def probe() -> Probe:
    Probe.seen.clear()
    return Probe()


def inputs_of(rows: Any, built: tiny.Built) -> dict[str, Tensor]:
    arrays = built.encoder.collate(built.encoder.encode(rows))
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def test_terms_get_signals_labels_mask_and_progress(probe: Probe) -> None:
    rows = tiny.sentences(6)
    built = tiny.built_bert(rows, layers=3)
    inputs, labels = inputs_of(rows, built), torch.tensor(rows["label"])
    batch, length = inputs["input_ids"].shape
    with torch.no_grad():
        wanted = built.model(**inputs, output_hidden_states=True).hidden_states
    distiller = Distiller(built.model, {"probe": probe, "hard": term("hard")})
    distiller.progress = 0.25
    features = torch.ones(6, 7)
    distiller(inputs, labels, {"features": features})["loss"].backward()
    [(seen, head)] = probe.seen
    assert head is None
    assert seen.labels is labels
    assert seen.teacher["features"] is features
    assert seen.progress == 0.25
    assert seen.mask is not None
    assert seen.mask.dtype == torch.bool
    assert torch.equal(seen.mask.long(), inputs["attention_mask"])
    assert [tuple(attention.shape) for attention in seen.student["attentions"]] == [(batch, 2, length, length)] * 3
    assert len(seen.student["hidden_states"]) == 4
    for got, alone in zip(seen.student["hidden_states"], wanted, strict=True):
        torch.testing.assert_close(got.detach(), alone, atol=1e-4, rtol=1e-4)


def test_heads_are_trained_with_the_student_and_do_not_ship(probe: Probe) -> None:
    rows = tiny.sentences(4)
    built = tiny.built_bert(rows)
    alone = set(built.model.state_dict())
    distiller = Distiller(built.model, {"mine": probe, "hard": term("hard")}, OUTLINES)
    head = distiller.heads["mine"]
    assert dict(distiller.heads.named_parameters()).keys() == {"mine.weight", "mine.bias"}
    assert {f"heads.mine.{name}" for name in ("weight", "bias")} < dict(distiller.named_parameters()).keys()
    distiller(inputs_of(rows, built), torch.tensor(rows["label"]))["loss"].backward()
    assert probe.seen[0][1] is head
    assert head.weight.grad.abs().sum() > 0  # type: ignore[union-attr]
    released = distiller.release()
    assert released is built.model
    assert set(released.state_dict()) == alone


def test_a_student_is_not_asked_for_what_no_term_reads() -> None:
    rows = tiny.sentences(4)
    built, seen = tiny.built_bert(rows), []
    built.model.register_forward_hook(lambda module, args, kwargs, out: seen.append((kwargs, out)), with_kwargs=True)
    inputs = inputs_of(rows, built)
    Distiller(built.model, {"hard": term("hard")})(inputs, torch.tensor(rows["label"]))
    [(asked, outputs)] = seen
    assert set(asked) == set(inputs)
    assert set(outputs) == {"logits"}
    assert built.model.config._attn_implementation == "sdpa"


def test_a_signal_that_the_student_does_not_have_is_refused(probe: Probe) -> None:
    pictures = tiny.pictures(4)
    net = tiny.built_net(pictures, "mlp")
    with pytest.raises(KdcError, match=r"loss\.terms\.mine reads \w+, which the student does not put out") as caught:
        Distiller(net.model, {"mine": probe})(inputs_of(pictures, net))
    assert "loss.terms.mine=null" in caught.value.remedy


def test_the_teacher_is_asked_only_by_terms_that_need_it(probe: Probe) -> None:
    assert teacher_signals([term("hard")]) == ()
    assert teacher_signals([term("kl"), term("hard")]) == ("logits",)
    assert teacher_signals([probe, term("kl")]) == ("features", "logits")
