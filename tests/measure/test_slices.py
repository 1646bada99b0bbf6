from dataclasses import replace

import numpy as np
import pytest

from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.measure.slices import cut
from kdc.tasks.text_classification import TextClassification
from tests import tiny, toys

TEXTS = ["a" * n for n in (1, 2, 3, 4, 5, 6, 7, 8)]


def examples(extras=None, texts=TEXTS, labels=(0, 0, 0, 0, 1, 1, 1, 1)):
    return Examples({"text": texts, "label": np.array(labels)}, ("no", "yes", "unseen"), extras or {})


def found(rows, columns=()):
    return {(part.by, part.group): part.rows.tolist() for part in cut(TextClassification(), rows, columns)}


def test_classes_that_have_rows_and_quartiles_of_length():
    assert found(examples()) == {
        ("class", "no"): [0, 1, 2, 3],
        ("class", "yes"): [4, 5, 6, 7],
        ("length", "1–2 characters"): [0, 1],
        ("length", "3–4 characters"): [2, 3],
        ("length", "5–6 characters"): [4, 5],
        ("length", "7–8 characters"): [6, 7],
    }


def test_the_length_of_a_pair_is_that_of_both():
    pairs = Examples({"text": ["a", "bb"], "text_pair": ["ccc", "d"], "label": np.array([0, 1])}, ("no", "yes"))
    assert found(pairs)["length", "4–4 characters"] == [0]


def test_rows_of_one_kind_make_no_group():
    assert found(examples(texts=["same"] * 8, labels=[0] * 8)) == {}


def test_columns_by_value():
    rows = examples({"source": ["web", "book", "", "web", "web", "book", "", "web"], "seen": ["yes"] * 8})
    groups = found(rows, ["source", "seen"])
    assert groups["source", "web"] == [0, 3, 4, 7]
    assert groups["source", "(empty)"] == [2, 6]
    assert not any(by == "seen" for by, _ in groups)


def test_columns_of_many_numbers_by_quartile_and_of_few_by_value():
    texts, labels = ["a"] * 60, [0, 1] * 30
    rows = examples({"year": [str(1960 + i) for i in range(60)], "stars": ["1", "2", "3"] * 20}, texts, labels)
    groups = found(rows, ["year", "stars"])
    assert [group for by, group in groups if by == "year"] == ["1960–1974", "1975–1989", "1990–2004", "2005–2019"]
    assert [group for by, group in groups if by == "stars"] == ["1", "2", "3"]


def test_a_column_of_all_different_texts_is_refused():
    rows = examples({"url": [f"page {i}" for i in range(60)]}, ["a"] * 60, [0, 1] * 30)
    said = r"report.slices: column 'url' has 60 values in 60 test rows, 60 of them in one row only; name columns of"
    with pytest.raises(KdcError, match=said):
        cut(TextClassification(), rows, ["url"])


def test_values_that_mostly_stand_in_one_row_are_refused_however_few():
    """They may be what `report.examples=false` keeps out, and groups are named by them."""
    unlike = [f"a secret {i}" for i in range(5)]
    with pytest.raises(KdcError, match=r"'note' has 5 values in 8 test rows, 4 of them in one row only; .* rows share"):
        cut(TextClassification(), examples({"note": [*unlike, *unlike[:1] * 3]}), ["note"])
    shared = ["a", "a", "b", "b", "c", "d", "a", "b"]
    assert {group for by, group in found(examples({"note": shared}), ["note"]) if by == "note"} == set("abcd")


def test_numbers_that_stand_in_one_row_each_are_cut_into_ranges():
    groups = found(examples({"year": list("12345678")}), ["year"])
    assert [group for by, group in groups if by == "year"] == ["1–2", "3–4", "5–6", "7–8"]


@pytest.mark.parametrize("columns", [["class"], ["length"], ["source", "source"]])
def test_two_cuts_of_one_name_are_refused(columns):
    """Readers of a record tell cuts by their names alone."""
    rows = examples(dict.fromkeys(columns, ["a", "b"] * 4))
    with pytest.raises(KdcError, match=rf"report.slices: rows are cut by '{columns[-1]}' already; leave it out, or"):
        cut(TextClassification(), rows, columns)


def test_a_column_may_be_called_length_where_rows_have_none():
    pictures = replace(tiny.pictures(8), extras={"length": ["a", "b"] * 4})
    assert {part.by for part in cut(tiny.task("image-classification"), pictures, ["length"])} == {"class", "length"}


def test_tasks_without_classes_and_rows_without_length():
    tagged = Examples({"text": ["a", "b b"], "tags": [[0], [1, 1]]}, ("O", "B"))
    assert [part.by for part in cut(toys.ToyTagging(), tagged, [])] == ["length", "length"]
    assert {part.by for part in cut(tiny.task("image-classification"), tiny.pictures(9), [])} == {"class"}
