import re

import pytest

from kdc.record import RunRecord
from kdc.report.markdown import HISTORY_ROWS, markdown, write_markdown
from kdc.report.verdict import verdict


def tables(text):
    return re.findall(r"(?:^\|.*\|\n?)+", text, flags=re.MULTILINE)


def test_verdict_comes_first_then_every_part(text_record):
    text = markdown(text_record)
    assert text.startswith(f"# sst2\n\n**{verdict(text_record)}**\n")
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert headings == [
        "Variants", "Latency", "Use it without kdc", "Stages", "Training: student", "Data", "Environment"
    ]  # fmt: skip
    assert "- rows that also stand in train: 3 of test" in text
    assert "- student: not timed at length 128" in text
    assert "| teacher | `1a2b3c4d5e6f` | reused | 0.2 s | saved 5 min |" in text


def test_every_table_is_rectangular(text_record, image_record, failed_record):
    for record in (text_record, image_record, failed_record):
        for table in tables(markdown(record)):
            assert len({len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_latency_has_a_line_a_workload_and_gaps_where_nothing_was_timed(text_record):
    del text_record.variants[2].latency[1]
    (latency,) = [t for t in tables(markdown(text_record)) if t.startswith("| workload")]
    assert latency.splitlines()[2:] == [
        "| batch 1 x 32 tokens | 11.9 (p90 17.9) | 6.20 (p90 9.30, 1.92x) | 1.47 (p90 2.21, 8.1x) |",
        "| 100 rows end to end | 23.8 (p90 17.9) | 12.4 (p90 9.30, 1.92x) | - |",
    ]


def test_long_histories_are_thinned_and_keep_their_end(text_record):
    (history,) = [t for t in tables(markdown(text_record)) if t.startswith("| step")]
    body = history.splitlines()[2:]
    assert len(body) <= HISTORY_ROWS
    assert body[-1] == "| 30 | 0.0333 | 0.0167 | 0.9 |"
    assert body[0].endswith("|  |")


def test_a_bar_in_a_name_does_not_break_the_table(text_record):
    text_record.stages[0].notes = ["a|b"]
    assert r"a\|b |" in markdown(text_record)


def test_a_stage_that_is_never_stored_has_no_key(text_record):
    text_record.stages[1].key = ""
    assert "| student |  | ran | 5.0 min |  |" in markdown(text_record)


def test_a_failed_run_has_what_there_is(failed_record):
    text = markdown(failed_record)
    assert "**The run failed in stage measure" in text
    assert "## Latency" not in text
    assert "## Environment" not in text


@pytest.mark.parametrize("status", ["running", "failed"])
def test_a_run_that_just_began(status):
    run = {"id": "abc", "command": "kdc run", "started_at": "now", "status": status}
    assert markdown(RunRecord.model_validate({"run": run})).startswith("# abc\n")


def test_written_as_utf8(text_record, tmp_path):
    write_markdown(text_record, tmp_path / "report.md")
    assert "84.9–88.0" in (tmp_path / "report.md").read_text(encoding="utf-8")
