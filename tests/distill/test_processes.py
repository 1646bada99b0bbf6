"""Two processes train as one does on the same batches, whatever the terms compare, and survive a kill as one does.

pytestmark = pytest.mark.slow

Tolerance: in float32 with dropout off, losses agree to 1e-5 of their size (1e-6 where that is less), weights to 1e-5
(see `distance`).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdc.record import Train
from tests.distill import together
from tests.distill.trainings import Weights, differ, distance
from tests.torchrun import ROOT, torchrun

Found = dict[str, tuple[Weights, Train]]


@pytest.fixture(scope="module")
def in_two(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("two")
    with torchrun("-m", "tests.distill.together", str(folder), cwd=ROOT) as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return {case: (weights, Train(**record)) for case, (weights, record) in torch.load(folder / "found.pt").items()}


@pytest.mark.parametrize("case", together.CASES)
def test_two_processes_train_as_one(case: str, in_two: Found, tmp_path: Path) -> None:
    (weights, record), (alone, wanted) = in_two[case], together.train(case, tmp_path)
    assert record.steps == wanted.steps
    assert len(record.history) == len(wanted.history)
    for row, other in zip(record.history, wanted.history, strict=True):
        assert row == pytest.approx(other, rel=1e-5, abs=1e-6)
    assert distance(weights, alone) < 1e-5
    assert len(record.audit) == len(wanted.audit) == 2
    if case == "in parts":
        return  # the first part of a batch, which is what an audit reads, has other rows then
    for one, another in zip(record.audit, wanted.audit, strict=True):
        for key, term in one.terms.items():
            assert term.model_dump() == pytest.approx(another.terms[key].model_dump(), rel=1e-3, abs=1e-6)


def test_two_processes_go_on_from_a_kill_to_the_same_end(in_two: Found) -> None:
    (resumed, again), (weights, record) = in_two[together.KILLED], in_two["whole"]
    assert again.resumed_at == 4
    assert not differ(resumed, weights)
    assert again.history == record.history
    assert differ(weights, in_two["rows"][0]), "dropout is on"
