"""What can be gated and against what; bundles that are whole or not there; sizes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kdc import manifest
from kdc.errors import KdcError
from kdc.gate.bundle import save_bundle
from kdc.gate.rules import SizeRule
from kdc.gate.side import open_baseline, open_candidate
from kdc.gate.size import bytes_results, memory_results
from tests.gates import NAME, answers, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", answers(rows=20, wrong=2))


@pytest.fixture
def bundle(run: Path, tmp_path: Path) -> Path:
    save_bundle(open_candidate(run), tmp_path / "bundle")
    return tmp_path / "bundle"


def edit(folder: Path, changes: dict[str, Any]) -> Path:
    path = folder / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | changes | {"run": record["run"] | changes.get("run", {})}))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"run": {"status": "running"}}, "has not ended; name a run that ended well"),
        ({"run": {"status": "failed", "error": "no room"}}, "failed: no room; name a run that ended well"),
        ({"schema": "kdc.record/2"}, "kdc.record/2 is newer than this kdc reads (kdc.record/1); upgrade kdc"),
        ({"variants": []}, "has no variants; name a whole run"),
        ({"variants": [{"name": "x"}]}, "is damaged: variants.0."),
    ],
)
def test_runs_that_cannot_be_gated(run: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(KdcError) as caught:
        open_candidate(edit(run, changes))
    assert said in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_candidate_must_be_whole(run: Path, tmp_path: Path) -> None:
    with pytest.raises(KdcError, match="is a file; what is gated must have its artifact"):
        open_candidate(run / "record.json")
    with pytest.raises(KdcError, match=r"has no variant 'studnt.onnxruntime'; did you mean 'student.onnxruntime'\?"):
        open_candidate(run, "studnt.onnxruntime")
    with pytest.raises(KdcError, match="there is no record of a run in"):
        open_candidate(tmp_path)
    shutil.rmtree(run / "predictions")
    with pytest.raises(KdcError, match=r"has no predictions of student.onnxruntime any more"):
        open_candidate(run)


def test_an_artifact_that_was_changed_is_refused(run: Path) -> None:
    (run / "artifacts" / NAME / "forward.onnx").write_bytes(b"other")
    with pytest.raises(KdcError, match=r"student.onnxruntime was changed since its record was written"):
        open_candidate(run)
    shutil.rmtree(run / "artifacts")
    with pytest.raises(KdcError, match=r"has no artifact of student.onnxruntime any more"):
        open_candidate(run)


def test_a_record_of_another_task(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", answers(rows=20, wrong=2))
    edit(other, {"config": {"dataset": {"task": "image-classification"}}})
    with pytest.raises(
        KdcError, match=r"another task \(image-classification; this run: text-classification\); name a baseline"
    ):
        open_baseline(other, open_candidate(run))


def test_the_variant_of_the_same_name_else_the_last(run: Path, tmp_path: Path) -> None:
    def add(record: dict[str, Any]) -> None:
        record["variants"].append(record["variants"][0] | {"name": "last"})

    other = write_run(tmp_path / "other", answers(rows=20, wrong=2), change=add)
    assert open_baseline(other, open_candidate(run)).variant.name == NAME
    candidate = open_candidate(run)
    renamed = write_run(
        tmp_path / "renamed", answers(rows=20, wrong=2), change=lambda r: r["variants"][0].update(name="x")
    )
    assert open_baseline(renamed, candidate).variant.name == "x"


def test_a_candidate_is_the_variant_that_was_saved_whatever_is_faster_today(run: Path, bundle: Path) -> None:
    def faster(record: dict[str, Any]) -> None:
        timed = record["variants"][0]["latency"][0] | {"p50_ms": 1.0}
        record["variants"].append(record["variants"][0] | {"name": "student.torch", "latency": [timed]})

    both = write_run(run.parent / "both", answers(rows=20, wrong=2), change=faster)
    shutil.copytree(both / "artifacts" / NAME, both / "artifacts" / "student.torch")
    shutil.copy(both / "predictions" / f"{NAME}.parquet", both / "predictions" / "student.torch.parquet")
    assert open_candidate(both).variant.name == "student.torch"
    assert open_candidate(both, like=bundle).variant.name == NAME
    assert open_candidate(both, "student.torch", like=bundle).variant.name == "student.torch"
    assert open_candidate(both, like=run).variant.name == "student.torch"  # a run holds whatever it is asked for
    renamed = write_run(
        run.parent / "new", answers(rows=20, wrong=2), change=lambda r: r["variants"][0].update(name="x")
    )
    (renamed / "predictions" / f"{NAME}.parquet").rename(renamed / "predictions" / "x.parquet")
    assert open_candidate(renamed, like=bundle).variant.name == "x"


def test_a_bundle_is_all_that_a_gate_needs(run: Path, bundle: Path) -> None:
    candidate = open_candidate(run)
    shutil.copytree(bundle, run.parent / "moved")
    side = open_baseline(run.parent / "moved", candidate)
    assert (side.variant.name, side.sha256) == (NAME, candidate.sha256)
    assert side.artifact == run.parent / "moved" / "artifacts" / NAME
    assert side.predictions is not None
    assert side.machine == candidate.machine is not None


def test_a_bundle_is_replaced_whole(run: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = write_run(tmp_path / "other", answers(rows=20, wrong=4))
    save_bundle(open_candidate(other), bundle)
    assert (bundle / "record.json").read_bytes() == (other / "record.json").read_bytes()

    def stop(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest, "publish", stop)
    with pytest.raises(KdcError, match=r"cannot write .*bundle \(No space left on device\)"):
        save_bundle(open_candidate(run), bundle)
    assert (bundle / "record.json").read_bytes() == (other / "record.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "other", "run"]


def test_nothing_but_a_bundle_is_replaced(run: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    save_bundle(open_candidate(run), precious)  # an empty folder is nothing
    (tmp_path / "file").write_text("x")
    for place in (run, tmp_path / "file"):
        with pytest.raises(KdcError, match=r"is there and is no baseline; name a new folder"):
            save_bundle(open_candidate(run), place)
    assert open_candidate(run)


@pytest.mark.parametrize("place", [".", "..", "/"])
def test_the_folder_one_is_in_is_not_replaced(
    run: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(KdcError, match=r"is where you are, and a baseline replaces its folder; name a new folder"):
        save_bundle(open_candidate(run), Path(place))
    assert (tmp_path / "empty").is_dir()


def test_a_place_that_cannot_be_written(run: Path, locked: Path) -> None:
    with pytest.raises(KdcError, match=r"cannot write .*new \(Permission denied\)") as caught:
        save_bundle(open_candidate(run), locked / "new")
    assert caught.value.exit_code == 2
    assert list(locked.iterdir()) == []


def test_a_place_below_a_file(run: Path) -> None:
    with pytest.raises(KdcError, match=r"cannot write .* \(Not a directory\); name a folder that can be written"):
        save_bundle(open_candidate(run), run / "record.json" / "bundle")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda b: (b / "record.json").write_text("{}"), "is not as it was saved: record.json was changed; save it"),
        (lambda b: (b / "predictions" / f"{NAME}.parquet").unlink(), "parquet is missing"),
        (lambda b: (b / "more").write_text(""), "more does not belong to it"),
        (lambda b: (b / "manifest.json").write_text("{"), "the manifest.json of this baseline is damaged"),
        (lambda b: (b / "manifest.json").write_text('{"kind": "kdc.baseline"}'), "of this baseline is damaged"),
    ],
)
def test_a_damaged_bundle(run: Path, bundle: Path, damage: Any, said: str) -> None:
    damage(bundle)
    with pytest.raises(KdcError) as caught:
        open_baseline(bundle, open_candidate(run))
    assert said in str(caught.value)


def test_bytes_are_compared_exactly(run: Path, tmp_path: Path) -> None:
    larger = open_candidate(write_run(tmp_path / "larger", answers(rows=20, wrong=2), weights=b"weights+"))
    baseline = open_baseline(run, larger)
    rule = SizeRule.model_validate({"max_growth": "14%", "max": "7B"})
    growth, absolute = bytes_results(rule, larger, baseline)
    assert growth.estimate == pytest.approx(1 / 7)
    assert growth.why == "bytes grew by 14.3% (7 B to 8 B); 14.0% is allowed"
    assert (growth.outcome, absolute.outcome) == ("fail", "fail")
    assert absolute.why == "bytes is 8 B, at most 7 B is wanted"
    rule = SizeRule.model_validate({"max_growth": "14.3%", "max": "8B"})
    assert [result.outcome for result in bytes_results(rule, larger, baseline)] == ["pass", "pass"]
    same = bytes_results(rule, open_candidate(run), open_baseline(run / "record.json", larger))
    assert same[0].why == "bytes stayed the same (7 B to 7 B); 14.3% is allowed"


def test_memory_is_compared_on_equal_machines_only(run: Path, tmp_path: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        record["variants"][0]["memory"]["peak_rss_bytes"] = 210_000_000

    now = open_candidate(write_run(tmp_path / "now", answers(rows=20, wrong=2), change=change))
    rule = SizeRule.model_validate({"max_growth": "4%"})
    (result,) = memory_results(rule, now, open_baseline(run, now))
    assert (result.outcome, result.change) == ("fail", "+5.0%")
    elsewhere = write_run(
        tmp_path / "elsewhere",
        answers(rows=20, wrong=2),
        change=lambda r: r["environment"]["cpu"].update(model="other"),
    )
    (result,) = memory_results(rule, now, open_baseline(elsewhere, now))
    assert (result.outcome, result.change) == ("informational", "+5.0%")
    assert result.why.endswith("elsewhere is of another machine, so memory is not compared")


def test_what_was_not_measured_has_no_rule(run: Path, tmp_path: Path) -> None:
    bare = write_run(tmp_path / "bare", answers(rows=20, wrong=2), change=lambda r: r["variants"][0].pop("memory"))
    side = open_candidate(run)
    with pytest.raises(KdcError, match=r"memory of student.onnxruntime in .*bare was not measured; leave its rule out"):
        memory_results(SizeRule.model_validate({"max_growth": "4%"}), side, open_baseline(bare, side))
