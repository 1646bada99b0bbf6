from pathlib import Path

import pytest
from rich.console import Console

from kdc.report.console import plain_table, print_report


def printed(record, width=80, **kwargs):
    console = Console(width=width, record=True, quiet=True, color_system=None)
    console.quiet = False
    with console.capture() as captured:
        print_report(record, console, **kwargs)
    return captured.get()


def test_table_verdict_notes_and_place_of_the_report(text_record):
    text = printed(
        text_record, report=Path("outputs/a/very/long/folder/name/that/goes/beyond/eighty/columns/report.md")
    )
    head, *_ = text.splitlines()
    assert head.split() == ["runtime", "accuracy", "size", "p50", "ms", "memory"]
    assert "86.4%" in text
    assert "student+int8 in onnxruntime keeps 96.3%" in text
    assert "note: student: not timed at length 128" in text
    assert text.splitlines()[-1].startswith("report: outputs/")
    assert text.splitlines()[-1].endswith("/report.md")


def test_words_stand_left_and_numbers_right_and_nothing_is_cut_off():
    table = plain_table(["a [name]", "number"], left=range(1))
    table.add_row("words", "1")
    table.add_row("w" * 30, "2")
    console = Console(width=24, color_system=None)
    with console.capture() as captured:
        console.print(table)
    head, _, first, *rest = captured.get().splitlines()
    assert head.split() == ["a", "[name]", "number"]
    assert (first.startswith("words"), first.endswith(" 1")) == (True, True)
    assert "".join(rest).count("w") == 30


def test_a_usual_run_fits_eighty_columns_without_broken_words(text_record):
    table = printed(text_record).split("\n\n")[0]
    assert "onnxruntime" in table
    assert "84.9–88.0" in table
    assert "7.8–8.4" in table
    assert all(len(line) <= 80 for line in table.splitlines())


@pytest.mark.parametrize("width", [40, 80, 200])
def test_failed_and_image_runs_print_at_any_width(failed_record, image_record, width):
    assert "The run failed in stage" in " ".join(printed(failed_record, width).split())
    assert "1.98x smaller." in " ".join(printed(image_record, width).split())


def test_brackets_of_an_error_are_no_markup(failed_record):
    failed_record.run.error = "pip install 'kdc[openvino]'"
    assert "pip install 'kdc[openvino]'" in " ".join(printed(failed_record).split())


def test_a_run_without_variants_prints_no_empty_table(failed_record):
    failed_record.variants, failed_record.notes = [], []
    assert printed(failed_record, 200).splitlines() == [
        "The run failed in stage measure: timing student: killed; free some memory"
    ]


def test_a_runtimes_name_stands_whole_beside_long_names_of_passes(text_record):
    for variant in text_record.variants:
        variant.name = variant.name.replace("student", "student+prune_channels", 1)
    shown = printed(text_record, width=74)
    head, _, *lines = shown[: shown.index("student+prune_channels+int8 in")].splitlines()
    column = slice(head.index("runtime"), None)
    names = [word for line in lines if (word := line[column].split(" ")[0]) in ("torch", "onnxruntime")]
    assert names == [variant.runtime for variant in text_record.variants]
    assert max(map(len, lines)) <= 74
