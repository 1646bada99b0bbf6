"""The published recipes for transformers, as they ship, teach a small BERT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from kdc.compose import compose
from kdc.config import to_run_config
from kdc.distill.distiller import Distiller
from kdc.distill.terms.base import Term, all_problems
from kdc.models.taps import LAYERED, Taps, outline
from tests import tiny
from tests.distill.terms.layered import texts
from tests.distill.trainings import teacher_signals

RECIPES = {
    "distilbert": {"kl", "hard", "hidden"},
    "tinybert": {"embeddings", "hidden", "attention", "kl"},
    "minilm": {"attention", "value_relation", "kl", "hard"},
    "minilmv2": {"query_relation", "key_relation", "value_relation", "kl", "hard"},
    "pkd": {"pkd", "kl", "hard"},
}


def terms(recipe: str) -> Mapping[str, Term]:
    return to_run_config(compose([f"loss={recipe}"])).loss.terms


def taught(recipe: str) -> tuple[Distiller, dict[str, Any]]:
    """A student of 2 layers, 48 wide, and what its teacher of 4 layers, 96 wide, says in the layers that are read."""
    sizes = {"num_attention_heads": 12, "intermediate_size": 48, "vocab_size": 40, "attention_probs_dropout_prob": 0.5}
    student = tiny.bert(layers=2, hidden_size=48, seed=1, **sizes)
    teacher = tiny.bert(layers=4, hidden_size=96, seed=2, **sizes)
    loss, asked = terms(recipe), teacher_signals(terms(recipe).values())
    ours = outline(student, {signal for term in loss.values() for signal in term.reads}, name="s", vocabulary="v")
    theirs = outline(teacher, asked, name="t", vocabulary="v")
    assert all_problems(loss, ours, theirs) == []
    read: dict[str, set[int]] = {}
    for term in loss.values():
        for signal, layers in term.layers(ours, theirs).items():
            read.setdefault(signal, set()).update(layers)
    with torch.no_grad():
        said = Taps(teacher, asked)(texts())
    for signal in LAYERED & said.keys():
        said[signal] = tuple(layer if i in read[signal] else None for i, layer in enumerate(said[signal]))
    torch.manual_seed(0)
    return Distiller(student, loss, (ours, theirs)), said


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_student_comes_nearer_to_its_teacher_in_every_term(recipe: str) -> None:
    distiller, said = taught(recipe)
    assert set(distiller.terms) == RECIPES[recipe]
    own = {name for name, _ in distiller.student.named_parameters()}
    optimizer = torch.optim.Adam(distiller.parameters(), lr=3e-3)
    phases = (0.0, 0.75) if recipe == "tinybert" else (0.0,)
    for distiller.progress in phases:
        losses = []
        for _ in range(30):
            loss = distiller(texts(), said["logits"].argmax(dim=-1), said)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(distiller.drain())
        active = RECIPES[recipe] & losses[0].keys()
        assert all(losses[-1][name] < losses[0][name] / 2 for name in active)
    assert {name for name, _ in distiller.release().named_parameters()} == own


def test_tinybert_has_two_phases() -> None:
    distiller, said = taught("tinybert")
    for distiller.progress, active in ((0.49, {"embeddings", "hidden", "attention"}), (0.5, {"kl"})):
        distiller(texts(), said["logits"].argmax(dim=-1), said)
        means = distiller.drain()
        assert RECIPES["tinybert"] & means.keys() == active, "the others are not even computed"


@pytest.mark.parametrize(
    ("recipe", "weights"),
    [
        ("distilbert", {"kl": 5, "hard": 2, "hidden": 1}),
        ("minilm", {"attention": 1, "value_relation": 1}),
        ("minilmv2", {"query_relation": 1, "key_relation": 1, "value_relation": 1}),
        ("pkd", {"kl": 0.5, "hard": 0.5, "pkd": pytest.approx(500 / 5 / 768, abs=0.001)}),
    ],
)
def test_weights_are_the_published_ones(recipe: str, weights: dict[str, Any]) -> None:
    assert {name: term.weight for name, term in terms(recipe).items() if name in weights} == weights
