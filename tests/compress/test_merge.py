"""Soups: means by hand, the greedy rule with known scores, and what does not go together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from kdc.compress.calibration import Calibration
from kdc.compress.merge import Merge, mean
from kdc.compress.plan import PrecisionPlan
from kdc.errors import KdcError
from kdc.models.build import Built
from tests import tiny

ROWS = tiny.sentences(20)


def built(seed: int) -> Built:
    return tiny.built_bert(ROWS, layers=1, seed=seed)


def rows(own: Built, *others: Built) -> Calibration:
    return Calibration(tiny.task(), own.encoder, ROWS, ROWS, "accuracy", others)


def merge(own: Built, *others: Built, **settings: Any) -> tuple[list[str], dict[str, torch.Tensor]]:
    paths = [f"model{number}" for number in range(len(others))]
    done = Merge(name="merge", paths=paths, **settings).apply(own.model, PrecisionPlan(), rows(own, *others))
    return done.lines, done.model.state_dict()


def test_uniform_and_weighted_means() -> None:
    for settings, shares in (
        ({"method": "uniform"}, (1, 1, 1)),
        ({"method": "weighted", "weights": [2, 1, 5]}, (2, 1, 5)),
    ):
        models = [built(seed) for seed in (1, 2, 3)]
        states = [{k: t.clone() for k, t in one.model.state_dict().items()} for one in models]
        lines, made = merge(*models, **settings)
        for name, tensor in made.items():
            wanted = sum(share * state[name] for share, state in zip(shares, states, strict=True)) / sum(shares)
            torch.testing.assert_close(tensor, wanted, rtol=1e-5, atol=1e-6)
        assert lines[0] == f"the model: {shares[0] / sum(shares):.1%}"
        assert lines[2].startswith("model1: ")


def test_counters_stay_those_of_the_first() -> None:
    states = [{"steps": torch.tensor(number), "w": torch.tensor([float(number)])} for number in (3, 5)]
    assert mean(states, [1, 1]) == {"steps": torch.tensor(3), "w": torch.tensor([4.0])}


def test_greedy_takes_what_does_not_make_it_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores by hand: alone 0.7, 0.9, 0.8; then 0.85 for the second with the third (left out), 0.9 with the first."""
    models = [built(seed) for seed in (1, 2, 3)]
    states = [{k: t.clone() for k, t in one.model.state_dict().items()} for one in models]
    scores = iter([0.7, 0.9, 0.8, 0.85, 0.9, 0.9])
    monkeypatch.setattr(Calibration, "score", lambda self, model: next(scores))
    lines, made = merge(*models)
    assert lines == [
        "model0: in, accuracy 0.9000 on validation",
        "model1: left out, with it 0.8500",
        "the model: in, with it 0.9000",
    ]
    for name, tensor in made.items():
        torch.testing.assert_close(tensor, (states[0][name] + states[1][name]) / 2, rtol=1e-5, atol=1e-6)


def test_greedy_is_never_worse_than_its_best_on_validation() -> None:
    models = [built(seed) for seed in (1, 2, 3)]
    best = max(rows(one).score(one.model) for one in models)
    merge(*models)
    assert rows(models[0]).score(models[0].model) >= best


def test_other_architectures_and_tokenizers_are_refused() -> None:
    with pytest.raises(KdcError, match="model0 is of another architecture"):
        merge(built(0), tiny.built_bert(ROWS, layers=2))
    other = built(1)
    words = replace(other, encoder=other.encoder.for_model(("input_ids", "attention_mask"), max_length=4))
    with pytest.raises(KdcError, match="model0 reads in another way"):
        merge(built(0), words)
    assert Merge(name="merge", paths=["a"]).rows_to_see > 32, "of a few rows two tokenizers may read all alike"


def test_a_checkpoint_without_a_head_is_refused() -> None:
    with pytest.raises(KdcError, match="model0 has no head for these labels"):
        merge(built(0), replace(built(1), new_head=True))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "name the checkpoints"),
        ({"paths": ["a"], "weights": [1, 1]}, "weights are for method=weighted"),
        ({"paths": ["a"], "method": "weighted"}, "which needs them"),
        ({"paths": ["a"], "method": "weighted", "weights": [1]}, "has to name 2 numbers"),
        ({"paths": ["a"], "method": "weighted", "weights": [0, 0]}, "not all 0"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Merge.model_validate({"name": "merge", **settings})
