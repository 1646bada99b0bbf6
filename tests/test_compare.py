"""Runs side by side: which settings differ, what the predictions of the same rows say, what may not be compared."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from rich.console import Console

from kdc import compare
from kdc.errors import KdcError
from kdc.measure.paired import proportion_difference
from kdc.measure.statistics import paired_ratio
from kdc.record import RunRecord
from kdc.report import table
from tests.report.conftest import text_run

ROWS = 200
LAST = "student+int8-onnxruntime"


def write_run(folder: Path, *, right: Sequence[bool] | None, ids: Sequence[str] = (), **config: object) -> Path:
    """A run whose last variant got these rows right; every row is `positive`."""
    raw = text_run()
    raw["config"] = {"dataset": {"task": "text-classification"}, "train": {"epochs": 2}, "seed": 0} | config
    record = RunRecord.model_validate(raw)
    if right is not None:
        quality = record.variants[2].quality
        assert quality is not None
        quality.metrics["accuracy"].value = float(np.mean(right))
        (folder / "predictions").mkdir(parents=True)
        answers = ["positive" if each else "negative" for each in right]
        logits = [[0.0, 1.0] if each else [1.0, 0.0] for each in right]
        columns = {
            "id": list(ids) or [str(row) for row in range(len(right))],
            "label": ["positive"] * len(right),
            "prediction": answers,
            "correct": list(right),
            "logits": logits,
        }
        parquet.write_table(pa.table(columns), folder / "predictions" / f"{LAST}.parquet")
    folder.mkdir(parents=True, exist_ok=True)
    record.save(folder / "record.json")
    return folder


def last_quality(places: Sequence[Path]) -> tuple[list[str], list[str]]:
    """The quality of the last variant in each run with its change, and the notes."""
    rows, notes = compare.results(compare.columns(places))
    (row,) = [row for row in rows if row[0].main == LAST]
    return [f"{cell.main}|{cell.detail}" for cell in row[2:]], notes


def test_only_settings_that_differ_are_told(tmp_path: Path) -> None:
    places = [
        write_run(tmp_path / "a", right=None, train={"epochs": 2, "mode": None}, compress={}, name="x", cache_dir="1"),
        write_run(
            tmp_path / "b", right=None, train={"epochs": 3, "mode": True}, compress={"int8": {"bits": 8}}, name="y"
        ),
    ]
    assert compare.settings(compare.columns(places)) == [
        ["train.epochs", "2", "3"],
        ["train.mode", "null", "true"],
        ["compress.int8", "-", "bits=8"],
    ]


def test_the_paired_difference_is_that_of_the_same_rows(tmp_path: Path) -> None:
    """Rows in another order, joined by id: 10 are lost and 4 are won."""
    first = [row >= 20 for row in range(ROWS)]
    second = [(row >= 20 or row < 4) and not 100 <= row < 110 for row in range(ROWS)]
    order = np.random.default_rng(0).permutation(ROWS)
    places = [
        write_run(tmp_path / "a", right=first),
        write_run(tmp_path / "b", right=[second[row] for row in order], ids=[str(row) for row in order]),
    ]
    low, high = proportion_difference(10, 4, ROWS) or (0, 0)
    interval = f"{100 * low:+.1f} to {100 * high:+.1f}".replace("-", "−")
    found, notes = last_quality(places)
    assert found == ["accuracy 90.0%|", f"accuracy 87.0%|−3.0 points ({interval})"]
    assert "intervals are of 95% each, not corrected for how many there are" in notes
    assert notes[-1] == (
        "latencies are those of the records: these runs were not timed together, so that no ratio is given"
    )


def test_identical_answers_are_called_that(tmp_path: Path) -> None:
    right = [row >= 20 for row in range(ROWS)]
    found, notes = last_quality([write_run(tmp_path / name, right=right) for name in "ab"])
    assert found[1] == "accuracy 90.0%|all 200 rows alike"
    assert not any("interval" in note for note in notes)


def test_other_rows_and_absent_predictions_are_told_of(tmp_path: Path) -> None:
    right = [True, False] * 20
    places = [
        write_run(tmp_path / "a", right=right),
        write_run(tmp_path / "b", right=right, ids=[f"other {row}" for row in range(40)]),
        write_run(tmp_path / "c", right=None),
    ]
    found, notes = last_quality(places)
    assert [cell.partition("|")[2] for cell in found] == ["", "", ""]
    assert any(note.startswith("no paired difference: a was tested on other rows: 0 of its 40") for note in notes)
    assert "where c has no predictions there is no paired difference" in notes


def test_bare_records_compare_without_predictions(tmp_path: Path) -> None:
    for name in "ab":
        write_run(tmp_path / name, right=[True, False] * 20)
    found, notes = last_quality([tmp_path / "a" / "record.json", tmp_path / "b" / "record.json"])
    assert found == ["accuracy 50.0%|", "accuracy 50.0%|"]
    assert "where b has no predictions there is no paired difference" in notes


def test_ratios_of_latency_only_where_runs_were_timed_together(tmp_path: Path) -> None:
    places = [write_run(tmp_path / name, right=None) for name in "ab"]
    records = [RunRecord.load(place) for place in places]
    faster = records[1].variants[2].latency[0]
    faster.p50_ms, faster.samples = 0.735, [[0.7, 0.7], [0.735], [0.771]]
    for record, place in zip(records, places, strict=True):
        record.save(place / "record.json")
    rows, notes = compare.results(compare.columns(places))
    assert [cell.main for cell in rows[8]] == ["", "p50 ms", "1.47", "0.735"]
    assert rows[8][3].detail == ""
    timing = {"rounds": 5, "processes": 20, "wall_seconds": 9.0, "machine": "m", "together": ["x", "y"]}
    for record, place in zip(records, places, strict=True):
        RunRecord.model_validate(record.model_dump() | {"timing": timing}).save(place / "record.json")
    rows, notes = compare.results(compare.columns(places))
    ratio, interval = paired_ratio([1.47] * 3, [0.7, 0.735, 0.771])
    assert (interval or (0, 0))[0] < 1.9 < ratio
    assert rows[8][3].detail == f"{ratio:.1f}x as fast ({table.times_interval(interval)})"
    assert not any("not timed together" in note for note in notes)


def test_sizes_are_exact_and_the_last_variants_are_compared_whatever_their_names(tmp_path: Path) -> None:
    places = [write_run(tmp_path / name, right=None) for name in "ab"]
    record = RunRecord.load(places[1])
    record.variants[2].name = "student-onnxruntime"
    assert record.variants[2].artifact is not None
    record.variants[2].artifact.bytes, record.variants[2].artifact.sha256 = 19_000_000, "1" * 64
    record.save(places[1] / "record.json")
    rows, _ = compare.results(compare.columns(places))
    titles = [row[0].main for row in rows if row[0].main]
    assert titles == ["teacher-torch", "teacher-onnxruntime", LAST, "student-onnxruntime", "what ships"]
    assert [(cell.main, cell.detail) for cell in rows[1][2:]] == [("91.0 MB", ""), ("91.0 MB", "same files")]
    assert [(cell.main, cell.detail) for cell in rows[-2][2:]] == [("17.8 MB", ""), ("19.0 MB", "+6.7%")]


def test_runs_without_variants_and_failed_ones_are_named(tmp_path: Path) -> None:
    places = [write_run(tmp_path / name, right=None) for name in "ab"]
    record = RunRecord.load(places[1])
    record.variants, record.run.status, record.run.error = [], "failed", "the disk is full; free some"
    record.save(places[1] / "record.json")
    console = Console(width=120, color_system=None)
    with console.capture() as captured:
        compare.print_comparison(compare.columns(places), console)
    assert "note: b: the run failed: the disk is full; free some" in captured.get()
    assert "The runs have the same configuration." in captured.get()


def test_folders_of_one_name_are_numbered(tmp_path: Path) -> None:
    places = [write_run(tmp_path / name / "run", right=None) for name in "ab"]
    assert [side.name for side in compare.columns(places)] == ["1: run", "2: run"]


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KdcError, match="there is no record of a run"):
        compare.columns([write_run(tmp_path / "a", right=None), tmp_path])
