"""Which artifacts are timed together, and that every run gets its own share of what was seen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kdc import machine, timing
from kdc.cli.sweep import time_jobs
from kdc.config import RunConfig, compose, to_run_config
from kdc.errors import KdcError
from kdc.measure.latency import VariantTiming
from kdc.measure.rounds import Contender
from kdc.measure.settings import BenchConfig
from kdc.record import Artifact, Latency, Memory, Run, RunRecord, Variant, Versus
from kdc.screen import Screen
from kdc.store import default_root
from kdc.timing import Untimed, time_runs
from tests import tiny

WORKLOAD = {"batch": 1, "length": 16}


class Stopwatch:
    """In the place of `time_variants`: contender number i takes i + 1 milliseconds."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, Contender], BenchConfig]] = []

    def __call__(self, contenders: Mapping[str, Contender], bench: BenchConfig, **_: Any) -> dict[str, VariantTiming]:
        self.calls.append((dict(contenders), bench))
        p50 = {name: number + 1.0 for number, name in enumerate(contenders)}
        memory = Memory(peak_rss_bytes=2, idle_rss_bytes=1)
        return {
            name: VariantTiming(
                [
                    Latency(
                        workload=WORKLOAD,
                        p50_ms=p50[name],
                        throughput=1.0,
                        samples=[[p50[name]]],
                        versus=[Versus(against=o, ratio=p50[o] / p50[name]) for o in contender.against if o != name],
                    )
                ],
                memory,
                0.1,
                1.0,
                processes=bench.rounds,
                notes=["not steady"],
            )
            for name, contender in contenders.items()
        }


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    made = Stopwatch()
    monkeypatch.setattr(timing, "time_variants", made)
    return made


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return to_run_config(compose([f"cache_dir={tmp_path}", "bench=quick", "bench.rows=3"]))


def variant(name: str, sha256: str) -> Variant:
    stage, _, runtime = name.partition(".")
    files = Artifact(path=f"artifacts/{name}", sha256=sha256, bytes=1, model_bytes=1, gzip_bytes=1, files={"a": 1})
    parents = {"student": ["teacher"], "student+int8": ["student"]}.get(stage, [])
    return Variant(name=name, stage=stage, parents=parents, runtime=runtime, precision="fp32", artifact=files)


def untimed(folder: Path, config: RunConfig, **artifacts: str) -> Untimed:
    variants = [variant(name.replace("_", "."), sha256) for name, sha256 in artifacts.items()]
    run = Run(id=folder.name, command="kdc run", started_at="now")
    record = RunRecord(run=run, variants=variants, baseline=variants[0].name)
    return Untimed.of(record, folder, config, tiny.sentences(10))


def test_one_run(stopwatch: Stopwatch, config: RunConfig, tmp_path: Path) -> None:
    run = untimed(tmp_path / "a", config, teacher_torch="1", teacher_onnxruntime="2", student_onnxruntime="3")
    time_runs([run], Screen())
    ((contenders, bench),) = stopwatch.calls
    assert bench == config.bench
    assert list(contenders) == ["teacher.torch", "teacher.onnxruntime", "student.onnxruntime"]
    assert contenders["student.onnxruntime"].path == tmp_path / "a/artifacts/student.onnxruntime"
    assert contenders["student.onnxruntime"].against == ("teacher.torch", "teacher.onnxruntime")
    assert [len(contender.rows or []) for contender in contenders.values()] == [3, 3, 3]
    student = run.record.variants[-1]
    assert student.latency[0].p50_ms == 3.0
    assert {v.against: v.ratio for v in student.latency[0].versus} == {
        "teacher.torch": 1 / 3,
        "teacher.onnxruntime": 2 / 3,
    }
    assert (student.load_seconds, student.first_call_ms) == (0.1, 1.0)
    assert student.memory == Memory(peak_rss_bytes=2, idle_rss_bytes=1)
    assert "student.onnxruntime: not steady" in run.record.notes
    assert run.record.timing is not None
    assert (run.record.timing.processes, run.record.timing.together) == (3 * bench.rounds, [])


def test_a_step_is_held_against_the_one_before_it(stopwatch: Stopwatch, config: RunConfig, tmp_path: Path) -> None:
    names = {"teacher_torch": "1", "student_torch": "2", "student_onnxruntime": "3", "student+int8_onnxruntime": "4"}
    run = untimed(tmp_path / "a", config, **names)
    time_runs([run], Screen())
    ((contenders, _),) = stopwatch.calls
    assert contenders["student+int8.onnxruntime"].against == ("teacher.torch", "student.onnxruntime")
    assert contenders["student.onnxruntime"].against == ("teacher.torch",)
    assert {v.against for v in run.record.variants[-1].latency[0].versus} == {"teacher.torch", "student.onnxruntime"}


def test_a_sweep_shares_its_rounds(stopwatch: Stopwatch, config: RunConfig, tmp_path: Path) -> None:
    """The same teacher, byte by byte, is timed once; each student is held against it under the teacher's own name."""
    runs = [
        untimed(tmp_path / "a", config, teacher_torch="1", student_torch="2"),
        untimed(tmp_path / "b", config, teacher_torch="1", student_torch="3"),
        untimed(tmp_path / "c", config, teacher_torch="4", student_torch="2"),
    ]
    time_runs(runs, Screen())
    ((contenders, _),) = stopwatch.calls
    assert list(contenders) == ["teacher.torch of a", "student.torch of a", "student.torch of b", "teacher.torch of c"]
    found = [[(v.against, v.ratio) for v in run.record.variants[-1].latency[0].versus] for run in runs]
    assert found == [[("teacher.torch", 1 / 2)], [("teacher.torch", 1 / 3)], [("teacher.torch", 4 / 2)]]
    assert [run.record.timing.together for run in runs if run.record.timing] == [["a", "b", "c"]] * 3


def test_other_settings_of_bench_are_other_rounds(stopwatch: Stopwatch, config: RunConfig, tmp_path: Path) -> None:
    longer = config.model_copy(update={"bench": config.bench.model_copy(update={"calls": 99})})
    runs = [
        untimed(tmp_path / "a", config, teacher_torch="1"),
        untimed(tmp_path / "b", longer, teacher_torch="1"),
    ]
    time_runs(runs, Screen())
    assert [bench.calls for _, bench in stopwatch.calls] == [config.bench.calls, 99]
    assert all(run.record.variants[0].latency for run in runs)


def test_equal_variants_of_one_run_are_timed_each(stopwatch: Stopwatch, config: RunConfig, tmp_path: Path) -> None:
    """A pass that changed nothing must show the same latency because it was measured, not because it was copied."""
    time_runs([untimed(tmp_path / "a", config, teacher_torch="1", student_torch="1")], Screen())
    assert len(stopwatch.calls[0][0]) == 2


def test_a_damaged_noise_floor_is_refused_before_anything_is_timed(
    stopwatch: Stopwatch, config: RunConfig, tmp_path: Path
) -> None:
    """The rounds take minutes, and nothing of them would be kept."""
    damaged = default_root() / "noise" / f"{machine.fingerprint()}.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text('{"floor": ')
    with pytest.raises(KdcError, match=r"holds no noise floor; measure it again: kdc bench ARTIFACT --noise"):
        time_runs([untimed(tmp_path / "a", config, teacher_torch="1")], Screen())
    assert stopwatch.calls == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            KdcError("timing student.torch of b: the process was killed", "out of memory?", exit_code=1),
            "timing student.torch of b: the process was killed; out of memory?",
        ),
        (KeyboardInterrupt(), "interrupted"),
        (OSError("too many open files"), "OSError: too many open files"),
    ],
)
def test_jobs_that_cannot_be_timed_say_so_and_keep_their_quality(
    error: BaseException, said: str, monkeypatch: pytest.MonkeyPatch, config: RunConfig, tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(timing, "time_variants", fail)
    runs = [untimed(tmp_path / name, config, teacher_torch="1") for name in "ab"]
    for run in runs:
        run.folder.mkdir()
        run.record.run.status = "ok"
    with pytest.raises(type(error)):
        time_jobs(runs)
    for run in runs:
        kept = RunRecord.load(run.folder)
        assert kept.run.status == "ok"
        assert kept.notes == [f"not timed: {said}"]
        assert (run.folder / "report.html").exists()


def test_jobs_that_were_timed_before_others_failed_keep_their_latency(
    monkeypatch: pytest.MonkeyPatch, config: RunConfig, tmp_path: Path
) -> None:
    stopwatch = Stopwatch()

    def fail_when_long(contenders: Mapping[str, Contender], bench: BenchConfig, **_: Any) -> dict[str, VariantTiming]:
        if bench.calls == 99:
            raise KdcError("timing teacher.torch: the process was killed", exit_code=1)
        return stopwatch(contenders, bench)

    monkeypatch.setattr(timing, "time_variants", fail_when_long)
    longer = config.model_copy(update={"bench": config.bench.model_copy(update={"calls": 99})})
    runs = [untimed(tmp_path / name, each, teacher_torch="1") for name, each in (("a", config), ("b", longer))]
    for run in runs:
        run.folder.mkdir()
    with pytest.raises(KdcError, match="was killed"):
        time_jobs(runs)
    timed, failed = (RunRecord.load(run.folder) for run in runs)
    assert timed.variants[0].latency[0].p50_ms == 1.0
    assert [stage.name for stage in timed.stages] == ["latency"]
    assert timed.notes == ["teacher.torch: not steady"]
    assert failed.variants[0].latency == failed.stages == []
    assert failed.notes == ["not timed: timing teacher.torch: the process was killed"]


def test_timed_jobs_are_completed(stopwatch: Stopwatch, config: RunConfig, tmp_path: Path) -> None:
    run = untimed(tmp_path / "a", config, teacher_torch="1")
    run.folder.mkdir()
    time_jobs([run])
    kept = RunRecord.load(run.folder)
    assert kept.variants[0].latency[0].p50_ms == 1.0
    assert [stage.name for stage in kept.stages] == ["latency"]


def test_an_artifact_that_was_not_timed_leaves_a_note_and_no_numbers(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def all_but_the_student(contenders: Mapping[str, Contender], bench: BenchConfig, **_: Any) -> Any:
        return {**Stopwatch()(contenders, bench), "student.torch": VariantTiming([], notes=["NOT TIMED: killed"])}

    monkeypatch.setattr(timing, "time_variants", all_but_the_student)
    run = untimed(tmp_path / "a", config, teacher_torch="1", student_torch="2")
    time_runs([run], Screen())
    teacher, student = run.record.variants
    assert teacher.latency
    assert (student.latency, student.memory, student.load_seconds, student.first_call_ms) == ([], None, None, None)
    assert "student.torch: NOT TIMED: killed" in run.record.notes
    assert run.record.timing.processes == run.record.timing.rounds == config.bench.rounds
