"""The recipes for convolutional nets and for relations between examples, as they ship, on small real models."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import yaml

from kdc.compose import config_dir
from kdc.distill.distiller import Distiller
from kdc.distill.signals import wanted_signals
from kdc.distill.terms.base import TERMS, Term, all_problems
from kdc.models.taps import outline
from tests.distill.terms import nets

ON_PICTURES = ("at", "crd", "fitnet", "nst", "rkd", "similarity")
ON_TEXTS = ("crd", "rkd", "similarity")
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def recipe(name: str) -> dict[str, Term]:
    written = yaml.safe_load((config_dir() / "loss" / f"{name}.yaml").read_text(encoding="utf-8"))
    return {key: TERMS[entry["name"]].model_validate(entry) for key, entry in written["terms"].items()}


def raw_values(
    terms: dict[str, Term], student: Any, teacher: Any, inputs: Any, *, steps: int
) -> list[dict[str, float]]:
    """Of every term, raw and weighted, at every step."""
    ours, theirs = (
        outline(model, frozenset().union(*(getattr(t, reads) for t in terms.values())), name=name, vocabulary=words)
        for model, reads, name, words in (
            (student, "reads", "the student", None), (teacher, "asks_of_teacher", "the teacher", None),
        )
    )  # fmt: skip
    assert all_problems(terms, ours, theirs) == []
    signals = nets.said(teacher, wanted_signals(terms.values(), ours, theirs), inputs)
    torch.manual_seed(1)
    trained = Distiller(student, terms, (ours, theirs))
    optimizer = torch.optim.Adam(trained.parameters(), lr=3e-3)
    values = []
    for step in range(steps):
        trained.progress = step / steps
        optimizer.zero_grad()
        trained(inputs, LABELS, signals)["loss"].backward()
        optimizer.step()
        values.append(trained.drain())
    trained.release()
    return values


@pytest.mark.parametrize(
    ("name", "kind"), [(name, "cnn") for name in ON_PICTURES] + [(name, "bert") for name in ON_TEXTS]
)
def test_every_term_of_a_recipe_teaches(name: str, kind: str) -> None:
    terms = recipe(name)
    if kind == "cnn":
        student, teacher, inputs = nets.cnn((4, 6)), nets.cnn((8, 12), hidden=16, seed=1), nets.pixels()
    else:
        student, teacher, inputs = nets.bert(layers=1), nets.bert(hidden_size=48, seed=1), nets.tokens()
    values = raw_values(terms, student, teacher, inputs, steps=30)
    assert all(math.isfinite(value) for seen in values for value in seen.values())
    assert values[-1]["loss"] < values[0]["loss"] or name == "fitnet"  # whose loss changes on the way
    for key in terms:
        assert max(seen.get(f"{key}_weighted", 0) for seen in values) > 1e-6


def test_fitnets_train_up_to_the_hint_first() -> None:
    values = raw_values(recipe("fitnet"), nets.cnn((4, 6)), nets.cnn((8, 12), seed=1), nets.pixels(), steps=20)
    weighing = [{key for key in ("hint", "kl", "hard") if seen.get(f"{key}_weighted")} for seen in values]
    assert weighing == [{"hint"}] * 6 + [{"kl", "hard"}] * 14
    assert values[5]["hint"] < values[0]["hint"]
    shares = [seen["kl_weighted"] / seen["kl"] * 9 for seen in values[6:]]  # λ
    assert shares[0] == pytest.approx(4, abs=0.01)
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == pytest.approx(1, abs=0.3)
