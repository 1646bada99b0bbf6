"""Trackers: what a training logs goes into its run's folder, and nothing of them into the store or the environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from kdc.config import compose, to_run_config
from kdc.distill.settings import TRACKERS
from kdc.distill.trackers import reporting
from kdc.errors import KdcError
from tests import runs
from tests.distill.trainings import run, settings

PLACES = {"wandb": "WANDB_DIR", "mlflow": "MLFLOW_TRACKING_URI", "trackio": "TRACKIO_DIR"}
OFFLINE = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "MLFLOW_EXPERIMENT_NAME": "kdc", "WANDB_PROJECT": "kdc"}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads: of every tag its steps and values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_what_the_history_has(tmp_path: Path) -> None:
    with reporting(["tensorboard"], tmp_path / "tracking", "student"):
        _, record = run(tmp_path / "scratch", settings(epochs=2, trackers=["tensorboard"]))
    seen = scalars(tmp_path / "tracking" / "tensorboard" / "student")
    for tag, key in {"train/loss": "loss", "train/hard": "hard", "eval/accuracy": "eval_accuracy"}.items():
        wanted = [(row["step"], row[key]) for row in record.history if key in row]
        assert len(wanted) in (10, 2)
        assert seen[tag] == [(step, pytest.approx(value)) for step, value in wanted]
    assert {path.name.partition("-")[0] for path in (tmp_path / "scratch").iterdir()} == {"checkpoint"}


def test_a_runs_trainings_are_tracked_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdc.timing.time_variants", runs.untimed)
    train = runs.write_csv(tmp_path / "train.csv")
    words = ("compress=none", "runtime=torch", "train.trackers=[tensorboard]")
    runs.run(runs.config(train, tmp_path / "cache", *words), tmp_path / "out")
    tracked = tmp_path / "out" / "tracking" / "tensorboard"
    assert sorted(path.name for path in tracked.iterdir()) == ["student", "teacher"]
    assert "train/kl" in scalars(tracked / "student")
    assert not list((tmp_path / "cache").rglob("*tfevents*"))
    again = runs.run(runs.config(train, tmp_path / "cache", *words[:2]), tmp_path / "again")
    assert [stage.name for stage in again.stages if not stage.cached] == ["latency"]
    assert not (tmp_path / "again" / "tracking").exists()


class Recorder(TrainerCallback):
    """In the place of a tracker's callback."""

    def __init__(self) -> None:
        self.environment = dict(os.environ)
        self.logs: list[dict[str, Any]] = []
        made.append(self)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.named = args.run_name, args.project

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.logs.append(dict(logs))


made: list[Recorder] = []


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in of the package; how often its run was finished."""
    finished: list[str] = []
    module = ModuleType("wandb")
    module.finish = lambda: finished.append("finished")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return finished


@pytest.mark.parametrize("tracker", PLACES)
def test_other_trackers_are_told_where_to_and_to_stay_offline(
    tracker: str, tmp_path: Path, wandb: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*OFFLINE, *PLACES.values()):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, tracker, Recorder)
    made.clear()
    before = dict(os.environ)
    with reporting([tracker], tmp_path / "tracking", "student"):
        _, record = run(tmp_path / "scratch", settings(epochs=1, trackers=[tracker]))
    assert dict(os.environ) == before
    [callback] = made
    assert callback.environment[PLACES[tracker]].removeprefix("file://").startswith(str(tmp_path / "tracking"))
    assert OFFLINE.items() <= callback.environment.items()
    assert callback.named == ("student", "kdc")
    assert sum("hard" in row for row in callback.logs) == record.steps
    assert sum("eval_accuracy" in row for row in callback.logs) == 1
    assert wandb == (["finished"] if tracker == "wandb" else [])


def test_what_the_environment_says_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    with reporting(["mlflow"], tmp_path, "student"):
        assert os.environ["WANDB_MODE"] == "online"
        assert os.environ["WANDB_DIR"] == str(tmp_path)
    assert os.environ["WANDB_MODE"] == "online"


def test_trackio_looks_for_its_folder_anew_in_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("trackio", "trackio.utils", "trackio_not"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    with reporting(["trackio"], tmp_path, "student"):
        assert {name for name in sys.modules if name.startswith("trackio")} == {"trackio_not"}


def test_without_trackers_nothing_is_made_or_set(tmp_path: Path) -> None:
    before = dict(os.environ)
    with reporting([], tmp_path / "tracking", "student"):
        assert dict(os.environ) == before
    assert not (tmp_path / "tracking").exists()


def test_an_unknown_tracker_is_refused_with_the_nearest_known() -> None:
    with pytest.raises(KdcError) as caught:
        to_run_config(compose(["train.trackers=[tensorbord]"]))
    assert str(caught.value) == "train.trackers: no tracker is called 'tensorbord'; did you mean 'tensorboard'?"


def test_one_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdc.checks.find_spec", lambda name: None if name in TRACKERS else object())
    with pytest.raises(KdcError) as caught:
        to_run_config(compose(["train.trackers=[mlflow]"]))
    assert str(caught.value) == "train.trackers: mlflow is not installed; pip install mlflow"
