"""Every format of local tables, and every way in which a file can be wrong."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdc.data.base import find
from kdc.data.files import Files
from kdc.errors import KdcError

ROWS = [{"text": f"sentence {i}", "label": ("no", "yes")[i % 2]} for i in range(20)]
CSV = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS)


def read(folder: Path, **settings: object) -> dict[str, list[str]]:
    table = Files.model_validate(settings).load(folder).tables["train"]
    return {name: list(column) for name, column in table.columns.items()}


def refused(load, match: str, **settings: object) -> None:
    with pytest.raises(KdcError, match=match) as error:
        load(**settings)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    expected = {"text": [row["text"] for row in ROWS], "label": [row["label"] for row in ROWS]}
    (tmp_path / "a.csv").write_text(CSV)
    (tmp_path / "a.tsv").write_text(CSV.replace(",", "\t"))
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    for extension in ("csv", "tsv", "json", "jsonl", "parquet"):
        assert read(tmp_path, train=f"a.{extension}") == expected, extension


def test_format_stands_above_the_extension(tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_text("text;label\nx;1\n")
    assert read(tmp_path, train="a.dat", format="csv", delimiter=";") == {"text": ["x"], "label": ["1"]}


def test_byte_order_mark_crlf_and_blank_lines_leave_no_trace(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbftext,label\r\nx,1\r\n\r\ny,2\r\n")
    assert read(tmp_path, train="a.csv") == {"text": ["x", "y"], "label": ["1", "2"]}


def test_quoted_fields_hold_delimiters_and_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,label\n"x, ""quoted""\nand more",1\n')
    assert read(tmp_path, train="a.csv") == {"text": ['x, "quoted"\nand more'], "label": ["1"]}


def test_quoting_none_takes_quotes_for_themselves(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('text\tlabel\n"never closed\t1\nx\t0\n')
    assert read(tmp_path, train="a.tsv", quoting="none")["text"] == ['"never closed', "x"]
    with pytest.raises(KdcError, match="quoting=none"):
        read(tmp_path, train="a.tsv")


def test_names_stand_for_a_header_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,x\n2,y\n")
    assert read(tmp_path, train="a.csv", names=["label", "text"]) == {"label": ["1", "2"], "text": ["x", "y"]}


def test_text_files_hold_a_row_a_line_even_around_odd_separators(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one \ntwo\x85still\u2028two\x1cyes\n", encoding="utf-8")
    assert read(tmp_path, train="a.txt") == {"text": ["one", "two\x85still\u2028two\x1cyes"]}


def test_a_mapping_gives_every_row_of_a_file_its_label(tmp_path: Path, load) -> None:
    (tmp_path / "bad.txt").write_text("awful\ndull\n" * 10)
    (tmp_path / "good.txt").write_text("great\nfine\n" * 10)
    splits, _ = load(data_dir=tmp_path, files={"train": {"good": "good.txt", "bad": "bad.txt"}})
    train = splits["train"]
    assert train.labels == ("bad", "good")
    good = {"great", "fine"}
    assert all((text in good) == (label == 1) for text, label in zip(train["text"], train["label"], strict=True))


def test_several_files_follow_one_another_and_keep_their_names_in_messages(tmp_path: Path, load) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    (tmp_path / "b.csv").write_text(CSV + " ,yes\n")
    refused(load, r"b\.csv, row 21: the text is empty", data_dir=tmp_path, files={"train": ["a.csv", "b.csv"]})
    (tmp_path / "c.csv").write_text("text,other\nx,1\n")
    refused(load, r"c\.csv has other columns", data_dir=tmp_path, files={"train": ["a.csv", "c.csv"]})


def test_latin_1_reads_when_asked_and_is_placed_when_not(tmp_path: Path, load) -> None:
    (tmp_path / "a.csv").write_bytes(CSV.encode() + "caf\xe9,yes\n".encode("latin-1"))
    offset = len(CSV) + 3
    refused(
        load,
        rf"a\.csv is not utf-8: byte {offset} \(line 22\) is 0xe9; .*dataset\.files\.encoding=latin-1",
        data_dir=tmp_path,
        files={"train": "a.csv"},
    )
    assert read(tmp_path, train="a.csv", encoding="latin-1")["text"][-1] == "café"


def test_relative_paths_start_at_data_dir_else_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text(CSV)
    assert find("a.csv", tmp_path, key="k") == tmp_path / "a.csv"
    assert find(str(tmp_path / "a.csv"), Path("/elsewhere"), key="k") == tmp_path / "a.csv"
    monkeypatch.chdir(tmp_path)
    assert find("a.csv", None, key="k").exists()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find("~/a.csv", None, key="k") == tmp_path / "a.csv"


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (None, {}, r"dataset\.files\.train: there is no file .*train\.csv"),
        ("", {}, r"train\.csv is empty"),
        ("text,label\n", {}, r"train\.csv has no rows"),
        ("\n\n", {}, r"train\.csv has no rows"),
        ("text,label\nx,1\ny,1\n", {}, r"train\.csv: every row has the label '1'; .*dataset\.columns\.label"),
        (
            CSV.replace("text", "txt", 1),
            {},
            r"no column 'text' among txt, label; dataset\.columns\.text=COLUMN.*'txt'\?",
        ),
        (CSV, {"columns": {"label": "labels"}}, r"no column 'labels' .* did you mean 'label'\?"),
        (CSV.replace("label", "y", 1), {}, r"no column 'label' among text, y; dataset\.columns\.label=COLUMN"),
        (CSV + "x,maybe\n", {"labels": ["no", "yes"]}, r"train\.csv, row 21: label 'maybe' is none of no, yes"),
        (CSV + "x,\n", {}, r"train\.csv, row 21: there is no label"),
        (CSV + "  ,yes\n", {}, r"train\.csv, row 21: the text is empty"),
        (CSV + "x,y,z\n", {}, r"train\.csv, row 21: 3 fields where 2 are expected \(text, label\)"),
        ("text,text\nx,y\n", {}, r"two columns share a name"),
        (CSV, {"columns": {"txt": "text"}}, r"dataset\.columns\.txt: there is no such role; did you mean 'text'\?"),
    ],
)
def test_wrong_input_is_one_clear_line(tmp_path: Path, load, content: str | None, settings, message: str) -> None:
    if content is not None:
        (tmp_path / "train.csv").write_text(content)
    refused(load, message, data_dir=tmp_path, files={"train": "train.csv"}, **settings)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[{]", r"a\.json, line 1: "),
        ("a.json", '{"text": "x"}', r"a\.json holds no list of objects"),
        ("a.json", "[1]", r"a\.json, row 1 is no JSON object"),
        ("a.json", '[{"text": "\\ud800", "label": "x"}, {"text": "y", "label": "z"}]', r"row 1: the text holds half"),
        ("a.jsonl", '{"text": "x"}\n{oops\n', r"a\.jsonl, line 2: "),
        ("a.jsonl", '{"text": "x", "label": 1}\n{"label": 2}\n', r"a\.jsonl, row 2: the text is empty"),
        ("a.parquet", "no parquet", r"a\.parquet is not readable as parquet"),
        ("a.xyz", "x", r"a\.xyz: '\.xyz' says nothing of the format; set dataset\.files\.format to csv, tsv"),
    ],
)
def test_wrong_files_of_other_formats(tmp_path: Path, load, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    refused(load, message, data_dir=tmp_path, files={"train": name})


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path, load) -> None:
    (tmp_path / "train.csv").write_text(CSV)
    refused(load, r"did you mean 'train\.csv'\?", data_dir=tmp_path, files={"train": "trian.csv"})
    refused(load, r"data_dir: there is no folder", data_dir=tmp_path / "nowhere", files={"train": "train.csv"})
    refused(load, r"is a folder; name the files in it", data_dir=tmp_path.parent, files={"train": tmp_path.name})


def test_no_training_file_is_said_before_anything_is_read(load) -> None:
    refused(load, re.escape("dataset.files.train is not set; dataset.files.train=FILE"), files={})


def test_settings_are_checked_when_typed(configure) -> None:
    for wrong in ({"encoding": "utf-88"}, {"format": "xls"}, {"delimiter": ";;"}, {"names": []}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            configure(files={"train": "a.csv", **wrong})
