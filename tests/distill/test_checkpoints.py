"""A training that is killed at any step goes on to the same end: the same rows, weights and history, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdc.distill import loop
from kdc.distill.batches import Part
from kdc.distill.checkpoints import COMPLETE
from kdc.distill.signals import CachedSignals, compute_signals
from kdc.distill.terms.base import Term
from kdc.distill.terms.logits import ForwardKL, HardLabels
from kdc.models.build import Built
from kdc.record import Train
from tests import tiny
from tests.distill.trainings import (
    ROWS,
    STEPS_PER_EPOCH,
    KilledError,
    Weights,
    differ,
    parts_seen,
    run,
    settings,
)

pytestmark = pytest.mark.slow

__all__ = ["parts_seen"]

STEPS = 3 * STEPS_PER_EPOCH
OFTEN = {"checkpoint_seconds": 1e-6}
MOMENTS = [int(step) for step in np.random.default_rng(3).choice(np.arange(2, STEPS), 4, replace=False)]
KILLS = sorted([*MOMENTS, STEPS_PER_EPOCH + 3])
"""Four steps drawn by chance, and one in the middle of the second epoch."""
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "bf16": {"precision": "bf16"},
    "in two parts": {"accumulate": 2},
    "stopped early": {"evaluations": 5, "patience": 5, "learning_rate": 3e-3},
}


@pytest.fixture(autouse=True)
def _three_steps_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that kills strike between two logs too."""
    monkeypatch.setattr(loop, "LOGS_PER_TRAINING", STEPS // 3)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> CachedSignals:
    folder = tmp_path_factory.mktemp("signals")
    compute_signals(tiny.built_bert(ROWS, seed=5), ROWS, folder, {"logits": ()}, advance=lambda rows: None)
    return CachedSignals(folder, ROWS)


TERMS: dict[str, Term] = {"kl": ForwardKL(name="kl"), "hard": HardLabels(name="hard", weight=0.5)}
Whole = tuple[Weights, Train, list[Part]]


@pytest.fixture(scope="module")
def whole(teacher: CachedSignals, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Whole]:
    """Each case from end to end, filled in as tests ask for it."""
    return {}


@pytest.mark.parametrize("kill_at", KILLS)
@pytest.mark.parametrize("case", CASES)
def test_a_killed_training_goes_on_as_if_it_had_not_been(
    case: str,
    kill_at: int,
    whole: dict[str, Whole],
    teacher: CachedSignals,
    parts_seen: list[Part],
    tmp_path: Path,
) -> None:
    config = settings(**CASES[case], **OFTEN)
    if case not in whole:
        weights, record = run(tmp_path / "whole", config, terms=TERMS, source=teacher)
        whole[case] = weights, record, list(parts_seen)
        parts_seen.clear()
    weights, record, seen = whole[case]
    if kill_at > record.steps:
        kill_at = record.steps
    with pytest.raises(KilledError):
        run(tmp_path / "cut", config, terms=TERMS, source=teacher, kill_at=kill_at)
    before = parts_seen[: (kill_at - 1) * config.accumulate]
    parts_seen.clear()
    resumed, again = run(tmp_path / "cut", config, terms=TERMS, source=teacher)
    assert again.resumed_at == kill_at - 1
    assert [_ids(part) for part in before + parts_seen] == [_ids(part) for part in seen]
    assert not differ(resumed, weights)
    assert again.history == record.history
    assert again.steps == record.steps


def _ids(part: Part) -> tuple[list[str], float]:
    return [ROWS.ids[row] for row in part.rows], part.share


def test_what_the_cases_are_about_really_happens(
    whole: dict[str, Whole], teacher: CachedSignals, tmp_path: Path
) -> None:
    logs = {}
    for case, changes in CASES.items():
        if case not in whole:
            whole[case] = *run(tmp_path / case, settings(**changes, **OFTEN), terms=TERMS, source=teacher), []
        record = whole[case][1]
        logs[case] = [row["step"] for row in record.history if "loss" in row]
    assert logs["plain"] == [3, 6, 9, 12, 15]
    assert whole["stopped early"][1].steps < STEPS
    still = tiny.built_bert(ROWS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    without_dropout, _ = run(tmp_path / "still", settings(**OFTEN), terms=TERMS, source=teacher, built=still)
    assert differ(without_dropout, whole["plain"][0])


def test_students_that_learn_from_one_another_go_on_together(tmp_path: Path) -> None:
    """A kill in the second epoch costs the peer nothing either: its weights are what the student learns from."""

    def together(folder: Path, kill_at: int | None = None) -> tuple[Weights, Weights, Train]:
        peer = tiny.built_bert(ROWS, seed=3, hidden_dropout_prob=0.2)
        weights, record = run(folder, settings(**OFTEN), terms=TERMS, peers={"other": peer}, kill_at=kill_at)
        return weights, dict(peer.model.state_dict()), record

    whole = together(tmp_path / "whole")
    with pytest.raises(KilledError):
        together(tmp_path / "cut", kill_at=8)
    resumed = together(tmp_path / "cut")
    assert resumed[2].resumed_at == 7
    assert not differ(resumed[0], whole[0])
    assert not differ(resumed[1], whole[1])
    assert resumed[2].history == whole[2].history
    assert any("other/kl" in row for row in whole[2].history)


class Watched:
    @staticmethod
    def bert(seen: list[int]) -> Built:
        """The usual student, whose training forwards are counted."""
        built = tiny.built_bert(ROWS, hidden_dropout_prob=0.2)
        built.model.register_forward_hook(lambda module, *rest: seen.append(1) if module.training else None)
        return built


@pytest.mark.parametrize(
    "changes", [{}, {"epochs": 1.6}, CASES["stopped early"]], ids=["whole", "part of an epoch", "stopped early"]
)
def test_a_finished_training_that_was_not_published_is_not_trained_again(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    config = settings(**changes)
    whole, record = run(tmp_path, config)
    seen: list[int] = []
    again, repeated = run(tmp_path, config, built=Watched.bert(seen))
    assert not differ(again, whole)
    assert not seen
    assert (repeated.steps, repeated.history) == (record.steps, record.history)


def test_a_half_written_checkpoint_is_ignored(tmp_path: Path) -> None:
    whole, _ = run(tmp_path / "whole", settings(**OFTEN))
    with pytest.raises(KilledError):
        run(tmp_path / "cut", settings(**OFTEN), kill_at=9)
    folders = sorted(tmp_path.glob("cut/checkpoint-*"), key=lambda folder: int(folder.name.partition("-")[2]))
    assert folders[-1].name == "checkpoint-8"
    assert all((folder / COMPLETE).exists() for folder in folders)
    (folders[-1] / COMPLETE).unlink()
    (folders[-1] / "model.safetensors").write_bytes(b"half")
    resumed, record = run(tmp_path / "cut", settings(**OFTEN))
    assert record.resumed_at == 5
    assert not differ(resumed, whole)


def test_killed_while_an_old_checkpoint_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainer would take what is left of one, without a word, for a checkpoint that has no optimizer."""
    whole, _ = run(tmp_path / "whole", settings(**OFTEN))

    def half(folder: Path, *rest: Any, **more: Any) -> None:
        if not Path(folder).name.startswith("checkpoint-"):
            return rmtree(folder, *rest, **more)
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            (folder / name).unlink()
        raise KilledError

    rmtree = shutil.rmtree
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", half)
        with pytest.raises(KilledError):
            run(tmp_path / "cut", settings(**OFTEN))
    resumed, record = run(tmp_path / "cut", settings(**OFTEN))
    assert record.resumed_at == 2
    assert not differ(resumed, whole)


def test_checkpoints_do_not_pile_up(tmp_path: Path) -> None:
    run(tmp_path / "all", settings(**OFTEN))
    assert len(list((tmp_path / "all").glob("checkpoint-*"))) <= 2


def test_checkpoints_are_written_by_the_clock(tmp_path: Path) -> None:
    for seconds, wanted in ((1e-6, {"checkpoint-4"}), (1e6, set())):
        with pytest.raises(KilledError):
            run(tmp_path / str(seconds), settings(checkpoint_seconds=seconds), kill_at=5)
        found = {folder.name for folder in tmp_path.glob(f"{seconds}/checkpoint-*")}
        assert wanted <= found if wanted else not found
