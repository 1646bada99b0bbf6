"""Estimates against what can be counted by hand: arithmetic and parameters of known nets, rows, rounds and epochs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdc import estimate, stages
from kdc.config import RunConfig
from kdc.data.lengths import mean_tokens
from kdc.data.load import load_splits
from kdc.estimate import Estimator, model_shape
from kdc.measure.settings import BenchConfig
from kdc.models.spec import StudentConfig, TeacherConfig
from kdc.screen import Screen
from kdc.stages import Data, Step, World
from kdc.store import Published, Store
from tests import runs

MEASURED = estimate._matmul_speed


@pytest.fixture(autouse=True)
def _one_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two million operations a second: times become counts."""
    monkeypatch.setattr(estimate, "_matmul_speed", lambda precision, width: 2e6 if precision == "fp32" else 4e6)


def texts(tmp_path: Path, *overrides: str) -> tuple[Estimator, Data, RunConfig]:
    config = runs.config(runs.write_csv(tmp_path / "train.csv"), tmp_path / "cache", *overrides)
    splits, _ = load_splits(config.dataset, data_dir=None, seed=0)
    data = stages.described(config.dataset, splits)
    return Estimator(data), data, config


def published(key: str) -> Published:
    return Published("x", key, Path(), cached=False, seconds=0, built_seconds=0)


def test_a_plain_net_by_hand(tmp_path: Path) -> None:
    words = ["dataset=digits", "teacher=mlp", "student=mlp_small", f"cache_dir={tmp_path}"]
    config = runs.to_run_config(runs.compose(words))
    splits, _ = load_splits(config.dataset, data_dir=None, seed=0)
    shape = model_shape(config.teacher, stages.described(config.dataset, splits))
    macs = 64 * 256 + 256 * 128 + 128 * 10
    assert shape.flops == 2 * macs
    assert shape.parameters == macs + 256 + 128 + 10
    assert shape.layers == 3


def test_students_with_a_tokenizer_of_their_own_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "mean_tokens", lambda rows, limit: 10.0)
    shapes = {}
    for choice in ("bilstm", "textcnn"):
        _, data, config = texts(tmp_path, f"student={choice}", "student.vocab_size=500")
        assert config.student is not None
        shapes[choice] = model_shape(config.student, data, model_shape(config.teacher, data))
    lstms = 2 * 4 * 150 * (300 + 150)  # directions, gates, from input and state
    assert shapes["bilstm"].flops == 2 * (10 * lstms + 300 * 200 + 200 * 2)
    assert shapes["bilstm"].parameters == 500 * 300 + lstms + 2 * 8 * 150 + 300 * 200 + 200 + 200 * 2 + 2
    kernels = 300 * 100 * (3 + 4 + 5)
    assert shapes["textcnn"].flops == 2 * (10 * kernels + 300 * 2)
    assert shapes["textcnn"].parameters == 500 * 300 + kernels + 300 + 300 * 2 + 2
    assert all(shape.saved_bytes > 0 for shape in shapes.values())


def test_an_encoder_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, data, config = texts(tmp_path)
    monkeypatch.setattr(estimate, "mean_tokens", lambda rows, limit: 10.0)
    shape = model_shape(config.teacher, data)
    layer = 10 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 10 * 10 * 32  # projections, feed-forward; scores and their use
    head = 32 * 32 + 32 * 2  # pooler and classifier, on one token
    assert shape.flops == 2 * (2 * layer + head)
    embeddings = 32 * (200 + 128 + 2) + 64
    weights = 4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 2 * 64
    assert shape.parameters == embeddings + 2 * weights + head + 32 + 2
    half = model_shape(StudentConfig(name="layers", layers=1), data, shape)
    assert half.parameters == shape.parameters - weights
    assert shape.saved_bytes > 4 * 10 * 32 * 2


def test_words_become_tokens(tmp_path: Path) -> None:
    _, data, _ = texts(tmp_path)
    longest = mean_tokens(data.splits["train"], 128)
    assert 2 + 2 * 1.15 < longest < 2 + 13 * 1.15
    assert mean_tokens(data.splits["train"], 4) <= 4


def test_training_scales_with_rows_and_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estimator, data, config = texts(tmp_path, "train.precision=fp32")
    monkeypatch.setattr(estimate, "STEP_SECONDS_PER_LAYER", 0.0)
    monkeypatch.setattr(estimate, "START_SECONDS", 0.0)
    world = World(Store(tmp_path / "cache"), Screen())

    def cost(**changes: object) -> estimate.Cost:
        teacher = TeacherConfig.model_validate({**config.teacher.model_dump(), **changes})
        step = stages.teacher_step(teacher, data, config.train, 0, world)
        return estimator.step(step, published("teacher"))

    once = cost(epochs=1)
    flops = estimator.shapes["teacher"].flops
    assert once.seconds == pytest.approx((3 * 64 + 8) * flops / 1e6)
    assert cost(epochs=4).seconds == pytest.approx(4 * once.seconds)
    wide = cost(epochs=1, batch_size=64)
    assert wide.peak_bytes - once.peak_bytes == pytest.approx(48 * estimator.shapes["teacher"].saved_bytes)


def test_later_steps_find_their_model_by_key(tmp_path: Path) -> None:
    estimator, data, config = texts(tmp_path)
    teacher = estimator.shapes["teacher"] = model_shape(config.teacher, data)

    def nothing(folder: Path, scratch: Path) -> None:
        raise AssertionError

    signals = estimator.step(Step("signals", {"teacher": "teacher"}, nothing), published("signals"))
    assert signals.seconds == pytest.approx(64 * teacher.flops / 1e6)
    (runtime,) = config.runtime.values()
    estimator.step(Step("export", {"model": "teacher", "runtime": runtime}, nothing), published("artifact"))
    predicted = estimator.step(Step("predictions", {"artifact": "artifact"}, nothing), published("predicted"))
    assert predicted.seconds == pytest.approx(8 * teacher.flops / 1e6)


@pytest.mark.parametrize(
    ("passes", "rows", "per_layer"),
    [
        (["int8"], 0, 0),
        (["prune_ffn", "compress.prune_ffn.score=fisher", "compress.prune_ffn.calibration_rows=10"], 10 * 3, 0),
        (["prune_ffn", "compress.prune_ffn.score=fisher", "compress.prune_ffn.calibration_rows=1000"], 64 * 3, 0),
        (["vocabulary"], 0, 0),
        (["int8,mixed_precision", "compress.mixed_precision.calibration_rows=10"], 0, 10),
        (["int8,accuracy_control", "compress.accuracy_control.calibration_rows=10"], 2 * 8, 10),
    ],
)
def test_a_pass_by_what_it_looks_at(passes: list[str], rows: int, per_layer: int, tmp_path: Path) -> None:
    estimator, data, config = texts(tmp_path, f"compress=[{passes[0]}]", *passes[1:])
    teacher = estimator.shapes["teacher"] = model_shape(config.teacher, data)
    chosen = list(config.compress.values())[-1].resolved()

    def nothing(folder: Path, scratch: Path) -> None:
        raise AssertionError

    cost = estimator.step(Step("compress", {"model": "teacher", "pass": chosen}, nothing), published("cut"))
    expected = (rows + per_layer * teacher.layers) * teacher.flops / 1e6
    assert cost.seconds == pytest.approx(estimate.START_SECONDS + expected)


@pytest.mark.parametrize(
    ("milliseconds", "warm_up", "timed"),
    [
        (1, 2 * 5, 40),  # calls are short: two windows of five, and as many calls as are asked for
        (10, 2 * 5, 15),  # the time ends before the calls
        (200, 2 * 1, 3),  # a call is longer than the time
    ],
)
def test_timing_by_hand(
    milliseconds: int, warm_up: int, timed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two million operations a second at half efficiency: a row of a thousand takes a millisecond."""
    estimator, data, config = texts(tmp_path)
    monkeypatch.setattr(estimate, "mean_tokens", lambda rows, limit: 10.0)
    teacher = model_shape(config.teacher, data)
    estimator.shapes["artifact"] = replace(teacher, flops=1000 * milliseconds)
    variant: Any = SimpleNamespace(
        artifact=published("artifact"), point=SimpleNamespace(precision="fp32"), runtime=SimpleNamespace(name="x")
    )
    bench = BenchConfig(name="x", batches=[1], lengths=[10], rounds=2, calls=40, seconds=0.15, rows=0)
    row = milliseconds / 1000
    cost = estimator.latency([variant], bench)
    assert cost.seconds == pytest.approx(2 * (1.0 + (warm_up + timed) * row))
    end_to_end = estimator.latency([variant], bench.model_copy(update={"rows": 4}))
    assert end_to_end.seconds - cost.seconds == pytest.approx(2 * (warm_up + 4) * row)


def test_the_speed_of_this_machine_is_measured() -> None:
    assert 1e8 < MEASURED("fp32", 64) < 1e16
    assert MEASURED("bf16", 64) > 1e6
