"""Splits, labels, limits, overlap and the choice of a source."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from kdc.data.base import SOURCES
from kdc.data.config import dataset_config_model
from kdc.data.examples import Examples
from kdc.data.load import choose_source, data_identity, sample
from kdc.errors import KdcError
from tests import toys  # noqa: F401  (registers its tasks)


def write(path: Path, rows: list[tuple[str, object]]) -> None:
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "train.csv", [(f"row {i}", "rare" if i % 10 == 0 else "common") for i in range(200)])
    write(tmp_path / "dev.csv", [(f"dev {i}", "rare" if i % 2 else "common") for i in range(30)])
    write(tmp_path / "test.csv", [("row 0", "rare"), ("row 1", "common"), *((f"t {i}", "rare") for i in range(8))])
    return tmp_path


def test_held_out_splits_are_disjoint_stratified_ordered_and_repeatable(folder: Path, load) -> None:
    splits, report = load(data_dir=folder, files={"train": "train.csv"}, validation=0.2, test=0.1)
    assert report.splits == {"train": 140, "validation": 40, "test": 20}
    texts = [text for examples in splits.values() for text in examples["text"]]
    assert sorted(texts) == sorted(f"row {i}" for i in range(200))
    assert report.labels == ["common", "rare"]
    assert {split: int(examples["label"].sum()) for split, examples in splits.items()} == {
        "train": 14,
        "validation": 4,
        "test": 2,
    }
    for examples in splits.values():
        numbers = [int(text.split()[1]) for text in examples["text"]]
        assert numbers == sorted(numbers)
        assert [label == 1 for label in examples["label"]] == [number % 10 == 0 for number in numbers]
    again, same = load(data_dir=folder, files={"train": "train.csv"}, validation=0.2, test=0.1)
    assert same == report
    assert again["test"]["text"] == splits["test"]["text"]
    other, _ = load(data_dir=folder, files={"train": "train.csv"}, validation=0.2, test=0.1, seed=1)
    assert other["test"]["text"] != splits["test"]["text"]


def test_given_splits_are_used_as_they_are_and_overlap_is_counted(folder: Path, load) -> None:
    files = {"train": "train.csv", "validation": "dev.csv", "test": "test.csv"}
    splits, report = load(data_dir=folder, files=files)
    assert report.splits == {"train": 200, "validation": 30, "test": 10}
    assert report.overlap == {"validation": 0, "test": 2}
    assert report.notes == ["test rows that also stand in train: 2 of 10"]
    assert splits["train"]["text"] == [f"row {i}" for i in range(200)]


def test_without_a_test_split_validation_is_reported_and_another_held_out(folder: Path, load) -> None:
    splits, report = load(data_dir=folder, files={"train": "train.csv", "validation": "dev.csv"})
    assert splits["test"]["text"] == [f"dev {i}" for i in range(30)]
    assert report.splits == {"train": 180, "validation": 20, "test": 30}
    assert "validation is reported as test" in report.notes[0]


@pytest.mark.parametrize("withheld", [-1, ""])
def test_a_test_split_with_withheld_labels_is_not_used(folder: Path, load, withheld: object) -> None:
    write(folder / "test.csv", [(f"t {i}", withheld) for i in range(5)])
    files = {"train": "train.csv", "validation": "dev.csv", "test": "test.csv"}
    splits, report = load(data_dir=folder, files=files)
    assert splits["test"]["text"][0] == "dev 0"
    assert report.notes[0].endswith("test.csv are withheld: its 5 rows are not used")


def test_minus_one_is_a_label_where_train_has_it(folder: Path, load) -> None:
    write(folder / "train.csv", [(f"row {i}", (-1, 1)[i % 2]) for i in range(20)])
    write(folder / "test.csv", [("t", -1)])
    splits, report = load(data_dir=folder, files={"train": "train.csv", "test": "test.csv"})
    assert report.labels == ["-1", "1"]
    assert list(splits["test"]["label"]) == [0]


def test_labels_found_in_train_are_sorted_numbers_by_value(folder: Path, load) -> None:
    write(folder / "train.csv", [(f"row {i}", i % 11) for i in range(44)])
    _, report = load(data_dir=folder, files={"train": "train.csv"})
    assert report.labels == [str(i) for i in range(11)]


def test_labels_map_raw_values_and_accept_names(folder: Path, load) -> None:
    write(folder / "train.csv", [(f"row {i}", (0, 1, "good", "bad")[i % 4]) for i in range(40)])
    splits, report = load(data_dir=folder, files={"train": "train.csv"}, labels={1: "good", 0: "bad"})
    assert report.labels == ["good", "bad"]
    for text, label in zip(splits["train"]["text"], splits["train"]["label"], strict=True):
        assert report.labels[label] == ("bad", "good", "good", "bad")[int(text.split()[1]) % 4]


def test_the_order_of_labels_is_the_users_and_changes_the_fingerprint(folder: Path, load) -> None:
    _, one = load(data_dir=folder, files={"train": "train.csv"}, labels=["rare", "common"])
    _, two = load(data_dir=folder, files={"train": "train.csv"}, labels=["common", "rare"])
    assert (one.labels, two.labels) == (["rare", "common"], ["common", "rare"])
    assert one.fingerprint != two.fingerprint


def test_a_label_that_only_test_has_is_refused_with_its_row(folder: Path, load) -> None:
    write(folder / "test.csv", [("x", "common"), ("y", "unheard")])
    with pytest.raises(KdcError, match=r"test\.csv, row 2: label 'unheard' is none of .*; no row of train has it"):
        load(data_dir=folder, files={"train": "train.csv", "test": "test.csv"})


def test_limit_samples_every_split_by_class(folder: Path, load) -> None:
    files = {"train": "train.csv", "validation": "dev.csv", "test": "test.csv"}
    splits, report = load(data_dir=folder, files=files, limit=20)
    assert report.splits == {"train": 20, "validation": 20, "test": 10}
    assert int(splits["train"]["label"].sum()) == 2
    assert int(splits["validation"]["label"].sum()) == 10


def test_sampling_gives_every_class_its_share_to_the_row() -> None:
    labels = np.repeat(np.arange(5), [500, 300, 100, 80, 20])
    examples = Examples({"text": [str(i) for i in range(1000)], "label": labels})
    for seed in range(5):
        assert Counter(sample(examples, 100, seed=seed)["label"].tolist()) == {0: 50, 1: 30, 2: 10, 3: 8, 4: 2}
    assert sample(examples, 1000, seed=0) is examples


def test_too_few_rows_for_three_splits(folder: Path, load) -> None:
    write(folder / "train.csv", [("a", 0), ("b", 1)])
    with pytest.raises(KdcError, match="no row is left for train"):
        load(data_dir=folder, files={"train": "train.csv"})


def test_pairs_and_columns_of_a_source_over_those_of_the_data_set(folder: Path, load) -> None:
    (folder / "pairs.csv").write_text("a,b,y\n" + "".join(f"l{i},r{i},{i % 2}\n" for i in range(20)))
    source = {"train": "pairs.csv", "columns": {"text_pair": "b", "label": "y"}}
    splits, _ = load(data_dir=folder, columns={"text": "a", "label": "elsewhere"}, files=source)
    train = splits["train"]
    assert list(train.columns) == ["text", "text_pair", "label"]
    assert all(pair == f"r{text[1:]}" for text, pair in zip(train["text"], train["text_pair"], strict=True))


def test_data_dir_or_an_absolute_path_chooses_the_local_source(configure, tmp_path: Path) -> None:
    relative = configure(hub={"path": "owner/name"}, files={"train": "a.csv"})
    assert choose_source(relative, None) is relative.sources()["hub"]
    assert choose_source(relative, tmp_path) is relative.sources()["files"]
    absolute = configure(hub={"path": "owner/name"}, files={"train": str(tmp_path / "a.csv")})
    assert choose_source(absolute, None) is absolute.sources()["files"]
    remote = configure(hub={"path": "owner/name"})
    assert choose_source(remote, tmp_path) is remote.sources()["hub"]
    both = configure(digits={}, files={"train": "a.csv"})
    with pytest.raises(KdcError, match=r"has several sources \(digits, files\); keep one: dataset\.digits=null"):
        choose_source(both, None)


def test_configuration_refuses_what_cannot_work(configure) -> None:
    with pytest.raises(ValueError, match="no source says where the rows come from"):
        configure()
    with pytest.raises(ValueError, match="leave nothing to train on"):
        configure(digits={}, validation=0.5, test=0.5)
    for wrong in ({"limit": 0}, {"max_length": -1}, {"labels": ["one"]}, {"test": 0}, {"colums": {}}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            configure(digits={}, **wrong)


def test_a_source_registered_later_joins_the_configuration() -> None:
    assert {"hub", "files", "image_folder", "idx", "stdlib_docs", "digits"} <= set(dataset_config_model().model_fields)

    @SOURCES.register("late")
    class Late(SOURCES["digits"]):  # type: ignore[misc]
        pass

    try:
        assert "late" in dataset_config_model().model_fields
    finally:
        del SOURCES._items["late"]


def test_identity_follows_contents_not_places(folder: Path, tmp_path_factory, configure) -> None:
    config = configure(files={"train": ["train.csv", "dev.csv"], "test": "test.csv"})
    before = data_identity(config, folder)
    moved = tmp_path_factory.mktemp("moved")
    for file in folder.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    assert data_identity(config, moved) == before
    (moved / "dev.csv").write_text("text,label\nother,rare\n")
    assert data_identity(config, moved) != before
    assert data_identity(configure(hub={"path": "owner/name"}), None) is None
    assert "scikit-learn" in str(data_identity(configure(digits={}), None))
    assert "python" in str(data_identity(configure(stdlib_docs={}), None))


def test_a_task_without_a_class_a_row_needs_none(tmp_path: Path, load) -> None:
    (tmp_path / "texts.csv").write_text("text,label\n" + "".join(f"t{i},same\n" for i in range(100)))
    splits, report = load(data_dir=tmp_path, task="toy-decoder", files={"train": "texts.csv"}, limit=30)
    assert list(splits["train"].columns) == ["text"]
    assert (report.labels, report.splits["train"]) == ([], 30)
    texts = splits["train"]["text"]
    assert texts == sorted(texts, key=lambda text: int(text[1:]))
    assert max(int(text[1:]) for text in texts) > 60, "drawn from all of them, not the first ones"
    assert load(data_dir=tmp_path, task="toy-decoder", files={"train": "texts.csv"}, limit=30)[1] == report


def test_a_task_may_have_columns_of_its_own(tmp_path: Path, load) -> None:
    rows = [{"text": f"a b {i}", "ner": [i % 2, 0, 1]} for i in range(40)]
    (tmp_path / "tags.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {"task": "toy-tagging", "files": {"train": "tags.jsonl"}, "labels": ["O", "B"]}
    splits, report = load(data_dir=tmp_path, columns={"tags": "ner"}, **settings)
    assert report.labels == ["O", "B"]
    for examples in splits.values():
        for text, tags in zip(examples["text"], examples["tags"], strict=True):
            assert list(tags) == [int(text[4:]) % 2, 0, 1]
    with pytest.raises(KdcError, match=r"there is no column 'tags' among text, ner.*dataset\.columns\.tags=COLUMN"):
        load(data_dir=tmp_path, **settings)


def test_columns_are_kept_row_by_row_through_splits_and_limits(folder: Path, load) -> None:
    rows = [f"row {i},{'rare' if i % 10 == 0 else 'common'},source {i},{i}" for i in range(200)]
    (folder / "train.csv").write_text("\n".join(["text,label,source,year", *rows]) + "\n")
    splits, report = load(data_dir=folder, files={"train": "train.csv"}, limit=15, keep=["source", "year", "label"])
    for examples in splits.values():
        numbers = [text.split()[1] for text in examples["text"]]
        assert examples.extras["source"] == [f"source {number}" for number in numbers]
        assert examples.extras["year"] == numbers
        assert examples.extras["label"] == [examples.labels[label] for label in examples["label"]]
    plain, without = load(data_dir=folder, files={"train": "train.csv"}, limit=15)
    assert without.fingerprint == report.fingerprint
    assert plain["test"].extras == {}


def test_a_column_to_keep_must_be_in_the_test_split(folder: Path, load) -> None:
    (folder / "train.csv").write_text("text,label,source\n" + "".join(f"t {i},{'ab'[i % 2]},web\n" for i in range(40)))
    (folder / "own.csv").write_text("text,label\nt,a\n")
    files = {"train": "train.csv", "test": "own.csv"}
    with pytest.raises(KdcError, match="the test rows have no column 'source'; known: label, text"):
        load(data_dir=folder, files=files, keep=["source"])
    with pytest.raises(KdcError, match=r"the test rows have no column 'sorce'; did you mean 'source'\?"):
        load(data_dir=folder, files={"train": "train.csv"}, keep=["sorce"])
