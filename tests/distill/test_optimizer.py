"""The optimizer that works on a batch's rows alone gets where torch's AdamW gets."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdc.distill.optimizer import RowAdamW, word_embedding
from tests import tiny
from tests.distill.trainings import distance, run, settings, without_dropout

STEPS, ROWS = 60, 40


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(ROWS, 8, padding_idx=0)
        self.out = nn.Linear(8, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.words(ids)).mean(dim=1))


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Rare words and frequent ones, some that stop coming, and some that never come."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for step in range(STEPS):
        ids = (torch.rand(6, 4, generator=generator) ** 3 * (ROWS - 5)).long()
        ids[0, 0] = 37 if step < 10 else 0
        found.append((ids, torch.randint(2, (6,), generator=generator)))
    return found


def groups(net: Net, weight_decay: float) -> list[dict[str, Any]]:
    return [
        {"params": [net.words.weight, net.out.weight], "weight_decay": weight_decay},
        {"params": [net.out.bias], "weight_decay": 0.0},
    ]


def trained(
    kind: str, *, weight_decay: float = 0.01, rate: float = 1e-2, max_norm: float = 1e9, until: int = STEPS
) -> tuple[Net, list[float]]:
    net = Net()
    optimizer: Any
    if kind == "rows":
        optimizer = RowAdamW(groups(net, weight_decay), net.words, steps=STEPS, lr=rate)
    else:
        optimizer = torch.optim.AdamW(groups(net, weight_decay), lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 5, 1 - step / STEPS))
    losses = []
    for ids, labels in batches()[:until]:
        loss = nn.functional.cross_entropy(net(ids), labels)
        loss.backward()
        if kind == "rows":
            optimizer.clip(max_norm)
        else:
            nn.utils.clip_grad_norm_(net.parameters(), max_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    if kind == "rows":
        optimizer.finish()
        optimizer.release()
    return net, losses


@pytest.mark.parametrize(
    "settings", [{}, {"weight_decay": 0.0}, {"weight_decay": 0.3, "rate": 1e-3}, {"max_norm": 0.05}], ids=str
)
def test_it_gets_where_adamw_gets(settings: dict[str, float]) -> None:
    (whole, wanted), (rows, found) = trained("adamw", **settings), trained("rows", **settings)
    assert found == pytest.approx(wanted, rel=1e-4), "every batch saw the weights that it would have seen"
    for (name, one), other in zip(whole.named_parameters(), rows.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=2e-5, msg=name)


def test_rows_move_after_their_last_gradient_and_stand_still_without_any() -> None:
    early, late = (trained("rows", weight_decay=0.0, until=steps)[0].words.weight for steps in (10, STEPS))
    start = Net().words.weight
    assert not torch.allclose(late[37], early[37], atol=1e-4), "momentum goes on"
    assert torch.equal(late[ROWS - 1], start[ROWS - 1]), "a row that never came"


def test_it_goes_on_from_its_state_to_the_same_bits() -> None:
    def run(stop: int | None) -> torch.Tensor:
        net = Net()
        optimizer = RowAdamW(groups(net, 0.01), net.words, steps=STEPS, lr=1e-2)
        for step, (ids, labels) in enumerate(batches()):
            if step == stop:
                saved, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(net.state_dict())
                optimizer.release()
                net = Net()
                net.load_state_dict(weights)
                optimizer = RowAdamW(groups(net, 0.01), net.words, steps=STEPS, lr=1e-2)
                optimizer.load_state_dict(saved)
            nn.functional.cross_entropy(net(ids), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
        optimizer.finish()
        return net.words.weight.detach()

    assert torch.equal(run(None), run(23))


def test_which_embeddings_it_can_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdc.distill.optimizer.LEAST_ROWS", 50)
    rows = tiny.sentences(20)
    model = tiny.built_bert(rows).model
    assert word_embedding(model) is model.get_input_embeddings()
    monkeypatch.setattr("kdc.distill.optimizer.LEAST_ROWS", 5000)
    assert word_embedding(model) is None, "too small"
    monkeypatch.setattr("kdc.distill.optimizer.LEAST_ROWS", 50)
    model.tied = nn.Linear(32, 75)
    model.tied.weight = model.get_input_embeddings().weight
    assert word_embedding(model) is None, "its weight is another layer's too"
    assert word_embedding(tiny.built_net(tiny.pictures(4), "cnn").model) is None


@pytest.mark.parametrize("parts", [1, 2])
def test_a_training_with_it_is_one_without_it(parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer brings rows up to date before it validates and saves, clips with it, and lets go in the end."""
    found = []
    for least in (1, 10**9):
        monkeypatch.setattr("kdc.distill.optimizer.LEAST_ROWS", least)
        built = without_dropout()
        found.append(run(tmp_path / str(least), settings(accumulate=parts, max_grad_norm=0.5), built=built))
        assert not built.model.get_input_embeddings().sparse
    (weights, record), (plain, wanted) = found
    assert distance(weights, plain) < 1e-5
    for row, other in zip(record.history, wanted.history, strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-6)
