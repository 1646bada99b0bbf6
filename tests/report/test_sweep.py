"""The leaderboard of a sweep and its pages."""

from pathlib import Path

import pytest

from kdc.errors import KdcError
from kdc.record import RunRecord
from kdc.report import leaderboard as board
from kdc.report.sweep import sweep_markdown, sweep_page, write_sweep_report
from kdc.report.table import Cell
from tests.report.pages import check
from tests.report.sweeps import sweep_records


@pytest.fixture(scope="module")
def records() -> dict[str, RunRecord]:
    return sweep_records()


def test_the_best_quality_comes_first_and_failures_last(records: dict[str, RunRecord]) -> None:
    entries = board.leaderboard(records)
    assert [entry.folder for entry in entries[:2]] == ["8-bert-layers", "9-bert-layers"]
    assert entries[-1].folder == "7-bert-layers"
    assert board.failures(entries) == [
        ("7-bert-layers", "The run failed in stage student: the loss became nan; lower it")
    ]


def test_only_settings_that_differ_are_columns(records: dict[str, RunRecord]) -> None:
    entries = board.leaderboard(records)
    assert board.keys(entries) == ["student.layers", "compress", "loss.terms.kl.temperature"]
    assert board.headers(entries)[0] == "run"
    assert board.headers(entries)[4:] == ["status", "accuracy", "kept", "size", "p50 ms", "speed-up", "front"]
    first = [ranked.cell.main for ranked in board.rows(entries)[0]]
    assert first == [
        "8-bert-layers", "4", "none", "1", "ok", "88.9%", "99.1%", "40.0 MB", "4.01", "3.0x", "●"
    ]  # fmt: skip


def test_nothing_retained_is_no_missing_value() -> None:
    record = sweep_records()["0-bert-layers"]
    assert record.variants[-1].quality is not None
    record.variants[-1].quality.retained = 0.0
    (row,) = board.rows(board.leaderboard({"0-bert-layers": record}))
    assert row[3] == board.Ranked(Cell("0.0%"), 0.0)


def test_the_front_is_that_of_quality_and_latency(records: dict[str, RunRecord]) -> None:
    """By hand: int8 halves the time and costs a point, temperature 4 is worse in both."""
    front = {entry.folder for entry in board.leaderboard(records) if entry.front}
    assert front == {f"{number}-bert-layers" for number in (2, 6, 10, 8)}
    assert "nothing beats run 2, run 6, run 10, run 8." in board.said(board.leaderboard(records))


def test_settings_that_a_run_leaves_out_are_read_off_its_configuration() -> None:
    records = sweep_records()
    for folder, given in (("0-bert-layers", "student.layers=2"), ("2-bert-layers", "compress=int8")):
        records[folder].run.overrides.remove(given)
        records[folder].config = {"student": {"layers": 2}, "compress": {"int8": {"name": "int8"}}}
    settings = {entry.folder: entry.settings for entry in board.leaderboard(records)}
    assert settings["0-bert-layers"]["student.layers"] == "2"
    assert settings["2-bert-layers"]["compress"] == "int8"


@pytest.mark.parametrize(
    ("configured", "words", "shown"),
    [
        ({}, ["none", "[]"], "none"),
        ({"int8": {"name": "int8"}}, ["int8", "[int8]"], "int8"),
        ({"int8": {"name": "int8"}, "bf16": {"name": "bf16"}}, ["[int8,bf16]"], "[int8,bf16]"),
    ],
)
def test_one_choice_is_one_value_however_it_was_made(
    configured: dict[str, object], words: list[str], shown: str
) -> None:
    """Given as a word, as a list, or not at all: a column of settings that differ holds it once."""
    one = sweep_records()["0-bert-layers"]
    records = {"0-left-out": one.model_copy(deep=True)}
    records["0-left-out"].run.overrides, records["0-left-out"].config = ["seed=0"], {"compress": configured}
    for number, word in enumerate(words, 1):
        records[f"{number}-given"] = one.model_copy(deep=True)
        records[f"{number}-given"].run.overrides = ["seed=0", f"compress={word}"]
    assert board.keys(board.leaderboard(records)) == []
    records["9-other"] = one.model_copy(deep=True)
    records["9-other"].run.overrides = ["seed=0", "compress=other"]
    settings = {entry.folder: entry.settings["compress"] for entry in board.leaderboard(records)}
    assert settings == {folder: "other" if folder == "9-other" else shown for folder in records}


def test_times_of_different_rounds_are_called_that() -> None:
    assert "not timed in the same rounds" not in board.said(board.leaderboard(sweep_records()))
    assert "not timed in the same rounds" in board.said(board.leaderboard(sweep_records(together=False)))


def test_runs_that_came_to_nothing_alone() -> None:
    records = {"7-bert-layers": sweep_records()["7-bert-layers"]}
    entries = board.leaderboard(records)
    assert board.said(entries) == "1 runs, 0 of them finished."
    check(sweep_page("sweep", records, links={}))
    assert "the loss became nan" in sweep_markdown("sweep", records)


def test_the_page(records: dict[str, RunRecord]) -> None:
    page = check(sweep_page("a <sweep>", records, links={"0-bert-layers": "0-bert-layers/report.html"}))
    assert [section["id"] for section in page.all("section")] == ["leaderboard", "failures", "tradeoff", "settings"]
    assert {"href": "0-bert-layers/report.html"} in page.all("a")
    values = [float(cell["data-value"] or "") for cell in page.all("td") if "data-value" in cell]
    assert len(values) == 11 * 6 + 1
    assert len([table for table in page.all("table") if "data-sortable" in table]) == 1
    titles = ["accuracy by student.layers", "p50 ms by compress", "accuracy by loss.terms.kl.temperature"]
    assert all(f">{title}</span>" in page.source for title in titles)
    assert "(of" not in page.text


def test_the_pages_are_written_beside_the_runs_and_link_to_theirs(
    records: dict[str, RunRecord], tmp_path: Path
) -> None:
    for folder, record in records.items():
        (tmp_path / "swéep" / folder).mkdir(parents=True)
        record.save(tmp_path / "swéep" / folder / "record.json")
    (tmp_path / "swéep" / "3-bert-layers" / "report.html").touch()
    (tmp_path / "public").mkdir()
    read = board.read_sweep(tmp_path / "swéep")
    assert list(read) == [f"{number}-bert-layers" for number in range(12)]
    write_sweep_report(tmp_path / "swéep", read)
    write_sweep_report(tmp_path / "swéep", read, output=tmp_path / "public")
    assert 'href="3-bert-layers/report.html"' in (tmp_path / "swéep" / "report.html").read_text()
    public = (tmp_path / "public" / "report.html").read_text()
    assert 'href="../sw%C3%A9ep/3-bert-layers/report.html"' in public
    text = (tmp_path / "public" / "report.md").read_text()
    assert text.startswith("# swéep\n\n**12 runs, 11 of them finished. In quality and latency nothing beats run 2")
    assert text.count("| ok |") == 11
    assert "- 7-bert-layers: The run failed in stage student" in text


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KdcError, match="there is no record of a run in"):
        board.read_sweep(tmp_path)
