import base64
import io

import numpy as np
from PIL import Image

from kdc.data.examples import Examples
from kdc.measure.flips import WITHHELD, told, worst_flips
from kdc.measure.scores import score_rows
from kdc.tasks.text_classification import TextClassification
from tests import tiny, toys

TASK = TextClassification()
ROWS = Examples({"text": ["alpha", "beta", "gamma", "delta"], "label": np.array([0, 0, 1, 1])}, ("no", "yes"))


def scored(*logits, task=TASK, rows=ROWS):
    return score_rows(task, {"logits": np.array(logits, dtype=np.float32)}, rows)


OTHER = scored([2, 0], [5, 0], [0, 1], [3, 0])  # right, right, right, wrong
OWN = scored([0, 1], [0, 4], [0, 9], [0, 2])  # wrong, wrong and surer, right, right


def flips(own=OWN, other=OTHER, most=10, show=True):
    return worst_flips(own, other, TASK.truth(ROWS), ROWS, most=most, show=show)


def test_what_was_right_and_is_wrong_the_surest_first():
    first, second = flips()
    assert (first.row, first.id, first.truth, first.answer, first.other) == (1, ROWS.ids[1], "no", "yes", "no")
    assert first.confidence == 1 / (1 + np.exp(-4.0))
    assert first.inputs == {"text": "beta"}
    assert second.row == 0
    assert [flip.row for flip in flips(most=1)] == [1]
    assert flips(most=0) == []
    assert flips(own=OTHER) == []


def test_without_show_nothing_of_the_row_is_told():
    for flip in flips(show=False):
        assert flip.inputs == {}
        assert (flip.truth, flip.answer, flip.other) == ("no", "yes", "no")


def test_answers_that_are_not_labels_may_repeat_a_row():
    assert told("a text", ("no", "yes"), show=True) == "a text"
    assert told("a text", ("no", "yes"), show=False) == WITHHELD
    assert told("no", ("no", "yes"), show=False) == "no"


def test_long_texts_are_cut():
    rows = Examples({"text": ["word " * 200, "b"], "label": np.array([0, 0])}, ("no", "yes"))
    own, other = (scored(*[logits] * 2, rows=rows) for logits in ([0, 1], [1, 0]))
    first = worst_flips(own, other, TASK.truth(rows), rows, most=1, show=True)[0]
    assert len(first.inputs["text"]) == 501
    assert first.inputs["text"].endswith("…")


def test_pictures_are_small_pngs():
    task = tiny.task("image-classification")
    for channels, side, shown in ((1, 8, 8), (3, 200, 96)):
        rows = tiny.pictures(2, side=side, channels=channels)
        own, other = (scored(*np.eye(3)[order], task=task, rows=rows) for order in ([1, 0], [0, 1]))
        flip = worst_flips(own, other, task.truth(rows), rows, most=1, show=True)[0]
        kind, _, content = flip.inputs["image"].partition(",")
        assert kind == "data:image/png;base64"
        picture = Image.open(io.BytesIO(base64.b64decode(content)))
        assert picture.size == (shown, shown)
        if side == shown:
            assert np.array_equal(np.asarray(picture), rows["image"][flip.row].squeeze(-1))


def test_rows_that_are_partly_right_and_of_no_confidence_by_what_they_lost():
    task = toys.ToyTagging()
    rows = Examples({"text": ["a b", "c d", "e f"], "tags": [[0, 1], [1, 1], [0, 0]]}, ("O", "B"))
    tags = np.eye(2, dtype=np.float32)
    other = score_rows(task, {"logits": tags[[[0, 1], [1, 1], [0, 0]]]}, rows)
    own = score_rows(task, {"logits": tags[[[0, 0], [0, 0], [0, 0]]]}, rows)
    found = worst_flips(own, other, task.truth(rows), rows, most=10, show=True)
    assert [(flip.row, flip.truth, flip.answer) for flip in found] == [
        (1, "['B', 'B']", "['O', 'O']"), (0, "['O', 'B']", "['O', 'O']")
    ]  # fmt: skip
    assert found[0].confidence is None
