"""The loss audit: true values and gradients, whatever the batch; it changes nothing, and hears who is not heard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from kdc.data.examples import Examples
from kdc.distill.audit import MARK, audit, audits
from kdc.distill.batches import tensors
from kdc.distill.distiller import Distiller
from kdc.distill.signals import OnlineSignals, wanted_signals
from kdc.distill.terms.base import TERMS, Term
from kdc.distill.terms.logits import ForwardKL, HardLabels
from kdc.models.build import Built
from kdc.models.taps import outline
from kdc.record import Stage
from kdc.report.audit import unheard
from tests import tiny
from tests.distill.trainings import ROWS, differ, run, says, settings, without_dropout

TWO: dict[str, Term] = {
    "kl": ForwardKL(name="kl", weight=0.7, temperature=3), "hard": HardLabels(name="hard", weight=0.2)
}  # fmt: skip
MOMENTS = (0.0, 0.5)


def batch(built: Built, rows: list[int]) -> tuple[dict[str, torch.Tensor], torch.Tensor, dict[str, torch.Tensor]]:
    inputs = tensors(built.encoder, built.encoder.encode(ROWS), rows)
    logits = torch.from_numpy(np.random.default_rng(3).standard_normal((len(rows), 2)).astype(np.float32))
    return inputs, torch.from_numpy(ROWS["label"][rows]), {"logits": logits}


def test_values_and_norms_are_those_of_the_formulas() -> None:
    built = without_dropout()
    inputs, labels, teacher = batch(built, [0, 1, 2, 3, 4])
    said = audit(Distiller(built.model, TWO), inputs, labels, teacher)
    logits = built.model(**inputs).logits
    log_q, log_p = functional.log_softmax(logits / 3, -1), functional.log_softmax(teacher["logits"] / 3, -1)
    raw = {"kl": 9 * (log_p.exp() * (log_p - log_q)).sum(-1).mean(), "hard": functional.cross_entropy(logits, labels)}
    for key, weight in (("kl", 0.7), ("hard", 0.2)):
        built.model.zero_grad()
        (weight * raw[key]).backward(retain_graph=True)
        squares = [float(p.grad.square().sum()) for p in built.model.parameters() if p.grad is not None]
        value = float(raw[key].detach())
        assert said[f"{key}/raw"] == pytest.approx(value, rel=1e-5)
        assert said[f"{key}/weighted"] == pytest.approx(weight * value, rel=1e-5)
        assert said[f"{key}/gradient"] == pytest.approx(sum(squares) ** 0.5, rel=1e-4)
    assert set(said) == {f"{key}/{what}" for key in TWO for what in ("raw", "weighted", "gradient")}


def test_it_leaves_everything_as_it_was() -> None:
    rows = tiny.pictures(8)
    built = tiny.built_net(rows, "cnn")
    built.model.train()
    for parameter in built.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: value.clone() for name, value in built.model.state_dict().items()}
    state = torch.get_rng_state()
    pixels = {"pixel_values": torch.from_numpy(built.encoder.collate(built.encoder.encode(rows))["pixel_values"])}
    said = audit(Distiller(built.model, {"hard": TWO["hard"]}), pixels, torch.from_numpy(rows["label"]), None)
    assert said["hard/gradient"] > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert not differ(before, built.model.state_dict())
    assert all(
        bool((parameter.grad == 1).all()) for parameter in built.model.parameters() if parameter.grad is not None
    )


@pytest.mark.parametrize("kind", ["bert", "cnn"])
def test_training_is_the_same_with_and_without(kind: str, tmp_path: Path) -> None:
    """BERT draws dropout, the CNN has batch norm's running means."""
    found = []
    for number, moments in enumerate(((), MOMENTS)):
        more: dict[str, Any] = {"terms": TWO, "source": says(np.ones((40, 2), dtype=np.float32))}
        if kind == "cnn":
            rows = tiny.pictures(40, classes=2)
            more |= {"rows": rows, "validation": rows, "task": tiny.task("image-classification")}
            more["built"] = tiny.built_net(rows, "cnn")
        weights, record = run(tmp_path / str(number), settings(epochs=2), audit_at=moments, **more)
        found.append((weights, record.history))
        assert [one.step for one in record.audit] == [0, 5][: len(moments)]
    assert not differ(found[0][0], found[1][0])
    assert found[0][1] == found[1][1], "the history holds no audit"


def test_shares_sum_to_one(tmp_path: Path) -> None:
    _, record = run(
        tmp_path, settings(epochs=1), terms=TWO, source=says(np.ones((40, 2), dtype=np.float32)), audit_at=MOMENTS
    )
    for one in record.audit:
        assert sum(term.share for term in one.terms.values()) == pytest.approx(1)
        assert sum(term.gradient_share for term in one.terms.values()) == pytest.approx(1)
        kl, hard = one.terms["kl"], one.terms["hard"]
        assert kl.share == pytest.approx(kl.weighted / (kl.weighted + hard.weighted))
        assert kl.gradient_share == pytest.approx(kl.gradient_norm / (kl.gradient_norm + hard.gradient_norm))


def test_an_audit_of_nothing_but_zeros_has_no_shares() -> None:
    silent = dict.fromkeys(("a/raw", "a/weighted", "a/gradient"), 0.0)
    [one] = audits([{"loss": 1.0, "step": 1}, {MARK: silent, "step": 3}])
    assert (one["step"], one["terms"]["a"]["share"], one["terms"]["a"]["gradient_share"]) == (3, 0.0, 0.0)


@pytest.mark.parametrize(("weight", "heard"), [(1.0, True), (1e-3, False)])
def test_a_hidden_state_term_that_is_a_thousand_times_too_small_is_caught(
    weight: float, heard: bool, tmp_path: Path
) -> None:
    student, teacher = without_dropout(), tiny.built_bert(ROWS, seed=7)
    terms = {"hard": HardLabels(name="hard"), "hidden": TERMS["hidden"](name="hidden", weight=weight)}
    sides = [outline(one.model, {"hidden_states"}, name=name) for name, one in (("a", student), ("b", teacher))]
    outlines = (sides[0], sides[1])
    source = OnlineSignals(teacher, teacher.encoder.encode(ROWS), wanted_signals(terms.values(), *outlines))
    _, record = run(
        tmp_path, settings(epochs=1), terms=terms, source=source, built=student, outlines=outlines, audit_at=MOMENTS
    )
    lines = unheard(Stage(name="student", key="", cached=False, wall_seconds=0, train=record))
    assert [line.partition(" never")[0] for line in lines] == ([] if heard else ["student: the term hidden"])


def test_labels_may_be_missing() -> None:
    unlabelled = Examples({"text": ROWS["text"]}, ROWS.labels)
    built = without_dropout()
    inputs = tensors(built.encoder, built.encoder.encode(unlabelled), [0, 1])
    said = audit(Distiller(built.model, {"kl": TWO["kl"]}), inputs, None, {"logits": torch.zeros(2, 2)})
    assert said["kl/gradient"] > 0
