import re
from pathlib import Path

import pytest

from kdc.record import RunRecord
from kdc.report.html import run_page
from kdc.report.markdown import markdown, write_markdown
from kdc.report.verdict import verdict


def tables(text):
    return re.findall(r"(?:^\|.*\|\n?)+", text, flags=re.MULTILINE)


def test_verdict_comes_first_then_one_screen(text_record):
    text = markdown(text_record)
    assert text.startswith(f"# sst2\n\n**{verdict(text_record)}**\n")
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert headings == ["Variants", "Latency", "Use it without kdc", "Setup"]
    assert "- rows also in train: 3 of test" in text
    assert "- student: not timed at length 128" in text
    assert len(text.splitlines()) <= 60


def test_what_the_last_variant_changed():
    record = RunRecord.load(Path(__file__).parent.parent / "golden" / "record.json")
    record.variants[1].comparisons[0].groups[0].difference.p_adjusted = 0.01
    text = markdown(record)
    assert (
        "## What student+int8.onnxruntime changed\n\n- against teacher.torch: accuracy −3.3 points (−9.1 to +2.5); "
        "of 60 rows 3 went from right to wrong, 1 from wrong to right; most lost: class asyncio −16.7 points\n"
    ) in text
    assert "Wait for a task" not in text, "Markdown may be shown by CI: no row of the data stands in it"


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


def test_a_bar_or_a_line_break_in_a_name_does_not_break_the_table(text_record):
    text_record.variants[2].name = "student|x\ny-onnxruntime"
    assert r"| student\|x y | onnxruntime |" in markdown(text_record)


def test_a_failed_run_has_what_there_is(failed_record):
    text = markdown(failed_record)
    assert "**The run failed in stage measure" in text
    assert "## Latency" not in text
    assert "processor" not in text


@pytest.mark.parametrize("status", ["running", "failed"])
def test_a_run_that_just_began(status):
    run = {"id": "abc", "command": "kdc run", "started_at": "now", "status": status}
    assert markdown(RunRecord.model_validate({"run": run})).startswith("# abc\n")


def test_written_as_utf8(text_record, tmp_path):
    write_markdown(text_record, tmp_path / "report.md")
    assert "84.9–88.0" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_pages_show_how_to_load_what_ships(text_record):
    """The fastest of the last step, not the last: that one would be loaded from another folder."""
    slower = text_record.variants[-1].model_copy(deep=True, update={"name": "student+int8-openvino"})
    slower.artifact.path, slower.latency[0].p50_ms = "artifacts/student+int8-openvino", 9.0
    text_record.variants.append(slower)
    for page in (markdown(text_record), run_page(text_record)):
        assert "artifacts/student+int8-onnxruntime" in page
        assert "artifacts/student+int8-openvino" not in page
