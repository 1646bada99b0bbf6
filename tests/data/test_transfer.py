"""Rows without labels: how they are found and read, which are dropped, and what comes of them with augmentation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kdc.data.examples import IGNORED, Examples, Splits
from kdc.data.load import load_splits
from kdc.data.transfer import read_unlabelled, transfer_identity, transfer_problems, transfer_rows
from kdc.errors import KdcError
from tests import toys  # noqa: F401  (registers its tasks)

Transfer = Callable[..., tuple[Examples, list[str]]]
NEW = ["fresh one", "fresh two", "fresh three"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, count in (("train", 40), ("dev", 10), ("test", 10)):
        rows = [f"{split} {i},{('no', 'yes')[i % 2]}" for i in range(count)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return tmp_path


FILES = {"train": "train.csv", "validation": "dev.csv", "test": "test.csv"}


@pytest.fixture
def transfer(configure: Callable[..., Any], folder: Path) -> Transfer:
    """The rows that a student of the data set in `folder` learns from, and the notes."""

    def build(*, seed: int = 0, mask_token: str | None = "[MASK]", **settings: Any) -> tuple[Examples, list[str]]:
        config = configure(**{"files": FILES, **settings})
        splits, _ = load_splits(config, data_dir=folder, seed=0)
        return transfer_rows(config, splits, data_dir=folder, seed=seed, mask_token=mask_token)

    return build


def lines(path: Path, rows: list[str]) -> None:
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def test_without_either_the_student_learns_from_train(transfer: Transfer) -> None:
    rows, notes = transfer()
    assert (list(rows["text"]), notes) == ([f"train {i}" for i in range(40)], [])


def test_unlabelled_rows_stand_in_the_place_of_train_and_have_no_label(transfer: Transfer, folder: Path) -> None:
    lines(folder / "more.txt", NEW)
    rows, notes = transfer(unlabelled="more.txt")
    assert rows["text"] == NEW
    assert rows["label"].tolist() == [IGNORED] * 3
    assert (rows["label"].dtype, rows.labels) == (np.int64, ("no", "yes"))
    assert notes == ["transfer set: 3 unlabelled rows"]


def test_every_format_gives_the_same_rows(transfer: Transfer, folder: Path) -> None:
    lines(folder / "more.txt", NEW)
    lines(folder / "more.csv", ["id,text", *(f"{i},{text}" for i, text in enumerate(NEW))])
    lines(folder / "more.tsv", ["text\tlabel", *(f"{text}\tunknown" for text in NEW)])
    lines(folder / "more.jsonl", [json.dumps({"text": text}) for text in NEW])
    (folder / "more.json").write_text(json.dumps([{"text": text} for text in NEW]))
    pq.write_table(pa.table({"text": NEW}), folder / "more.parquet")
    for extension in ("txt", "csv", "tsv", "jsonl", "json", "parquet"):
        assert transfer(unlabelled=f"more.{extension}")[0]["text"] == NEW, extension


def test_several_files_follow_one_another_whatever_their_formats(transfer: Transfer, folder: Path) -> None:
    lines(folder / "a.txt", NEW[:2])
    lines(folder / "b.csv", ["text", NEW[2], NEW[0]])
    rows, notes = transfer(unlabelled=["a.txt", str(folder / "b.csv")])
    assert rows["text"] == NEW
    assert notes == ["transfer set: 3 unlabelled rows; dropped: 1 repeated"]


def test_what_is_empty_held_out_or_there_already_is_dropped_and_counted(transfer: Transfer, folder: Path) -> None:
    wrong = ["", "  ", "test 3", " test  4 ", "dev 9", NEW[0], "train 0"]
    pq.write_table(pa.table({"text": [None, *NEW, *wrong]}), folder / "more.parquet")
    rows, notes = transfer(unlabelled="more.parquet")
    assert rows["text"] == [*NEW, "train 0"]
    said = "3 empty, 2 found in test, 1 found in validation, 1 repeated"
    assert notes == [f"transfer set: 4 unlabelled rows; dropped: {said}"]


def test_half_a_surrogate_pair_is_no_text(transfer: Transfer, folder: Path) -> None:
    (folder / "more.jsonl").write_text('{"text": "half \\ud800"}\n{"text": "whole \\ud834\\udd1e"}\n')
    rows, notes = transfer(unlabelled="more.jsonl")
    assert rows["text"] == ["whole 𝄞"]
    assert notes[0].endswith("dropped: 1 empty")


def test_keep_labelled_puts_train_before_them(transfer: Transfer, folder: Path) -> None:
    lines(folder / "more.txt", [*NEW, "train 5", "train  6"])
    rows, notes = transfer(unlabelled="more.txt", keep_labelled=True)
    assert list(rows["text"]) == [*(f"train {i}" for i in range(40)), *NEW]
    assert rows["label"].tolist() == [i % 2 for i in range(40)] + [IGNORED] * 3
    assert notes == ["transfer set: 3 unlabelled rows beside 40 labelled ones; dropped: 2 found in train"]


def test_limit_leaves_unlabelled_rows_alone(transfer: Transfer, folder: Path) -> None:
    lines(folder / "more.txt", NEW)
    rows, _ = transfer(unlabelled="more.txt", limit=2, keep_labelled=True)
    assert len(rows) == 2 + 3


def test_columns_are_found_as_in_the_data_set_or_by_their_role(configure: Any, folder: Path) -> None:
    lines(folder / "pairs.csv", ["a,b,label", *(f"l{i},r{i},{i % 2}" for i in range(40))])
    columns = {"text": "x", "text_pair": "y"}
    source = {"train": "pairs.csv", "columns": {"text": "a", "text_pair": "b"}}
    lines(folder / "mapped.csv", ["b,text,a", "second,wrong,first", "second,wrong,", " ,wrong,first"])
    (folder / "roles.jsonl").write_text(json.dumps({"text": "first", "text_pair": "second"}))
    for name, dropped in (("mapped.csv", {"empty": 2}), ("roles.jsonl", {})):
        config = configure(columns=columns, files=source, unlabelled=name)
        splits, _ = load_splits(config, data_dir=folder, seed=0)
        rows, counts = read_unlabelled(config, splits, data_dir=folder)
        assert (rows["text"], rows["text_pair"], counts) == (["first"], ["second"], dropped)
    lines(folder / "single.txt", ["one text"])
    config = configure(columns=columns, files=source, unlabelled="single.txt")
    with pytest.raises(
        KdcError, match=r"single\.txt has no column 'b' among text; .*dataset\.columns\.text_pair=COLUMN"
    ):
        read_unlabelled(config, splits, data_dir=folder)


def test_files_of_the_format_of_the_data_set_are_read_as_it_says(transfer: Transfer, folder: Path) -> None:
    text = (folder / "train.csv").read_text()
    (folder / "train.csv").write_text(text.replace(",", ";"))
    (folder / "more.csv").write_bytes('text;score\ncafé, "open;1\n'.encode("latin-1"))
    (folder / "more.tsv").write_bytes('text\tscore\n"café, open"\t1\n'.encode("latin-1"))
    files = {"train": "train.csv", "delimiter": ";", "quoting": "none", "encoding": "latin-1"}
    assert transfer(files=files, unlabelled="more.csv")[0]["text"] == ['café, "open']
    assert transfer(files=files, unlabelled="more.tsv")[0]["text"] == ["café, open"], "only the encoding is theirs"


def test_format_of_the_data_set_says_what_an_extension_does_not(transfer: Transfer, folder: Path) -> None:
    (folder / "train.data").write_text((folder / "train.csv").read_text())
    lines(folder / "more.data", ["text,label", f"{NEW[0]},?"])
    lines(folder / "more.txt", ["text,label", f"{NEW[0]},?"])
    lines(folder / "more.jsonl", [json.dumps({"text": NEW[0]})])
    files = {"train": "train.data", "format": "csv"}
    for name in ("more.data", "more.txt", "more.jsonl"):
        assert transfer(files=files, unlabelled=name)[0]["text"] == NEW[:1], name


def picture(path: Path, value: int, *, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, dtype=np.uint8)).save(path)


def digits(configure: Any, folder: Path, **settings: Any) -> tuple[Any, Splits]:
    config = configure(digits={}, task="image-classification", limit=30, **settings)
    return config, load_splits(config, data_dir=folder, seed=0)[0]


def test_pictures_of_a_folder_and_of_those_in_it(configure: Any, tmp_path: Path) -> None:
    for number, name in enumerate(("b.png", "a.jpg", "deep/er/c.png", "same.png")):
        picture(tmp_path / "more" / name, 40 * min(number, 2))
    (tmp_path / "more" / "notes.txt").write_text("no picture")
    config, splits = digits(configure, tmp_path, unlabelled="more")
    rows, notes = transfer_rows(config, splits, data_dir=tmp_path, seed=0)
    assert [int(image[0, 0, 0]) for image in rows["image"]] == [40, 0, 80], "by their names"
    assert rows["image"].shape == (3, 8, 8, 1), "grey like the digits"
    assert rows["label"].tolist() == [IGNORED] * 3
    assert notes == ["transfer set: 3 unlabelled rows; dropped: 1 repeated"]
    Image.fromarray(splits["test"]["image"][0][..., 0]).save(tmp_path / "more" / "leak.png")
    picture(tmp_path / "more" / "larger.png", 7, size=(9, 8))
    config, splits = digits(configure, tmp_path, unlabelled=["more"], keep_labelled=True)
    rows, notes = transfer_rows(config, splits, data_dir=tmp_path, seed=0)
    assert [image.shape[0] for image in rows["image"][30:]] == [8, 8, 8, 9]
    assert notes[0].endswith("beside 30 labelled ones; dropped: 1 found in test, 1 repeated")


def test_augmentation_makes_rows_of_what_the_student_learns_from(transfer: Transfer, folder: Path) -> None:
    rows, notes = transfer(augment={"mask": 1.0, "copies": 2})
    assert rows["text"][40:] == ["[MASK] [MASK]"]
    assert notes == ["augmentation: 1 new rows made of 40; dropped: 79 repeated, or found in validation or test"]
    lines(folder / "more.txt", NEW)
    settings = {"unlabelled": "more.txt", "augment": {"mask": 0.4, "copies": 4}}
    rows, notes = transfer(**settings)
    assert rows["text"][:3] == NEW
    assert len(rows) > 5
    assert set(rows["label"].tolist()) == {IGNORED}
    assert [note.split(":")[0] for note in notes] == ["transfer set", "augmentation"]
    assert transfer(**settings)[0].fingerprint == rows.fingerprint
    assert transfer(seed=1, **settings)[0].fingerprint != rows.fingerprint
    with pytest.raises(KdcError, match=r"dataset\.augment\.mask: .*no mask token"):
        transfer(mask_token=None, **settings)


def test_no_row_of_validation_or_test_is_made(transfer: Transfer, folder: Path) -> None:
    lines(folder / "more.txt", ["test 1 2 3", "dev 1 2 3"])
    rows, _ = transfer(unlabelled="more.txt", augment={"ngram": 1.0, "copies": 200})
    assert {"1 2", "test 1 2", "dev"} <= set(rows["text"])
    assert not {"test 1", "dev 1"} & set(rows["text"])


@pytest.mark.parametrize(
    ("unlabelled", "content", "message"),
    [
        ("mor.txt", "x", r"dataset\.unlabelled: there is no file .*mor\.txt; did you mean 'more\.txt'\?"),
        ("more.txt", "", r"more\.txt is empty"),
        ("more.csv", "text,label\n", r"more\.csv has no rows"),
        ("more.txt", "\n \n", r"dataset\.unlabelled: none of its 2 rows can be used; dropped: 2 empty; name a file"),
        ("more.txt", "test 1\ntest 2\n", r"none of its 2 rows can be used; dropped: 2 found in test"),
        (
            "more.csv",
            "txt,id\nx,1\n",
            r"more\.csv has no column 'text' among txt, id; .*text=COLUMN; did you mean",
        ),
        ("more.xyz", "x", r"unlabelled: '\.xyz' of .*more\.xyz says nothing of the format; rename it to \.csv"),
        ("more.png", "x", r"more\.png is no table, and text-classification reads texts; name files: \.csv"),
        (".", "x", r"dataset\.unlabelled: .* is no table, and text-classification reads texts"),
    ],
)
def test_wrong_files_are_one_clear_line(
    transfer: Transfer, folder: Path, unlabelled: str, content: str, message: str
) -> None:
    (folder / ("more.txt" if unlabelled in (".", "mor.txt") else unlabelled)).write_text(content)
    with pytest.raises(KdcError, match=message) as error:
        transfer(unlabelled=unlabelled)
    assert "\n" not in str(error.value)


def test_wrong_pictures_are_one_clear_line(configure: Any, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    lines(tmp_path / "more.csv", ["text", "x"])
    for unlabelled, message in [
        (
            "more.csv",
            r"dataset\.unlabelled: .*more\.csv is no folder, and image-classification reads pictures",
        ),
        ("more", r"dataset\.unlabelled: .*more holds no pictures; expected \.bmp"),
    ]:
        config, splits = digits(configure, tmp_path, unlabelled=unlabelled)
        with pytest.raises(KdcError, match=message):
            read_unlabelled(config, splits, data_dir=tmp_path)
    (tmp_path / "more" / "broken.png").write_text("no picture")
    with pytest.raises(KdcError, match=r"broken\.png is not readable as a picture"):
        read_unlabelled(config, splits, data_dir=tmp_path)


def test_settings_are_checked_when_typed(configure: Any) -> None:
    for wrong, problem in [
        ({"unlabelled": []}, "unlabelled"),
        ({"keep_labelled": True}, "keep_labelled adds the rows of train to unlabelled ones; name these by unlabelled"),
        ({"augment": {}}, "changes nothing"),
        ({"augment": {"copies": 0, "mask": 0.1}}, r"augment\.copies"),
    ]:
        with pytest.raises(ValueError, match=problem):
            configure(digits={}, **wrong)


def test_what_a_task_cannot_learn_so_is_told_before_any_file_is_read(configure: Any) -> None:
    pictures = configure(digits={}, task="image-classification", unlabelled="nowhere", augment={"mask": 0.1, "flip": 1})
    assert list(transfer_problems(pictures)) == [
        "dataset.augment.mask: is not for images; for them there is shift, flip"
    ]
    tags = configure(files=FILES, task="toy-tagging", unlabelled="nowhere", augment={"mask": 0.1})
    assert list(transfer_problems(tags)) == [
        f"dataset.{key}: rows of toy-tagging need tags, which only labelled ones have"
        for key in ("unlabelled", "augment")
    ]
    assert list(transfer_problems(configure(files=FILES, task="toy-tagging"))) == []
    decoder = configure(files=FILES, task="toy-decoder", unlabelled="nowhere", augment={"mask": 0.1})
    assert list(transfer_problems(decoder)) == []


def test_rows_of_a_task_without_classes_have_no_label(transfer: Transfer, folder: Path) -> None:
    lines(folder / "more.txt", NEW)
    rows, _ = transfer(task="toy-decoder", unlabelled="more.txt", keep_labelled=True, augment={"ngram": 0.5})
    assert list(rows.columns) == ["text"]
    assert len(rows) > 43


def test_identity_follows_contents_and_all_that_changes_the_rows(configure: Any, folder: Path) -> None:
    lines(folder / "more.csv", ["text,score", *(f"{text},1" for text in NEW)])

    def identity(**settings: Any) -> Any:
        return transfer_identity(configure(**{"files": FILES, **settings}), folder)

    assert identity() is None
    base = identity(unlabelled="more.csv")
    assert identity(unlabelled=["more.csv"], name="other", limit=7) == base
    (folder / "copy.csv").write_bytes((folder / "more.csv").read_bytes())
    assert identity(unlabelled="copy.csv") == base, "the same contents by another name"
    (folder / "copy.txt").write_bytes((folder / "more.csv").read_bytes())
    others = [
        identity(unlabelled="copy.txt"),
        identity(unlabelled=["more.csv", "copy.csv"]),
        identity(unlabelled="more.csv", keep_labelled=True),
        identity(unlabelled="more.csv", columns={"text": "score"}),
        identity(unlabelled="more.csv", files={**FILES, "quoting": "none"}),
        identity(unlabelled="more.csv", augment={"mask": 0.1}),
        identity(unlabelled="more.csv", augment={"mask": 0.1, "copies": 2}),
        identity(augment={"mask": 0.1}),
    ]
    lines(folder / "more.csv", ["text,score", *(f"{text},2" for text in NEW)])
    others += [base, identity(unlabelled="more.csv")]
    assert len({json.dumps(other, sort_keys=True) for other in others}) == len(others)
    with pytest.raises(KdcError, match=r"dataset\.unlabelled: there is no file"):
        identity(unlabelled="nowhere.txt")
