from typing import get_args

import numpy as np
import pytest

from kdc.measure.robustness import NOISE, PERTURBATIONS, perturb
from kdc.report.settings import Perturbation
from tests import tiny


@pytest.fixture
def rows():
    return tiny.sentences(40)


def distance(a: str, b: str) -> int:
    """Edits between two words (Levenshtein)."""
    line = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        line, above = [i], line
        for j, y in enumerate(b, 1):
            line.append(min(above[j] + 1, line[-1] + 1, above[j - 1] + (x != y)))
    return line[-1]


def test_the_configuration_knows_every_perturbation():
    assert set(get_args(Perturbation)) == set(PERTURBATIONS)


@pytest.mark.parametrize("name", ["typos", "case"])
def test_texts_change_by_content_and_seed_alone(name, rows):
    first = perturb(rows, name, seed=0)
    assert first["text"] != rows["text"]
    assert first["text"] == perturb(rows, name, seed=0)["text"]
    assert first["text"] != perturb(rows, name, seed=1)["text"]
    turned = perturb(rows.select(range(39, -1, -1)), name, seed=0)
    assert turned["text"] == first["text"][::-1]
    assert np.array_equal(first["label"], rows["label"])
    assert first.fingerprint != rows.fingerprint
    assert first.labels == rows.labels


def test_typos_are_inside_of_long_words_and_one_edit_or_swap_each(rows):
    changed = 0
    for before, after in zip(rows["text"], perturb(rows, "typos", seed=0)["text"], strict=True):
        words = list(zip(before.split(), after.split(), strict=True))
        wrong = [(a, b) for a, b in words if a != b]
        changed += bool(wrong)
        for a, b in wrong:
            assert len(a) >= 4
            assert (a[0], a[-1]) == (b[0], b[-1])
            assert distance(a, b) == 1 or (distance(a, b) == 2 and sorted(a) == sorted(b))
    assert changed > 30


def test_a_text_without_long_words_has_no_typos():
    assert PERTURBATIONS["typos"][1]("a b cde", np.random.default_rng(0)) == "a b cde"


def test_every_typo_changes_its_word():
    """Also where neighbours are alike, which swapped are what they were."""
    for seed in range(50):
        assert PERTURBATIONS["typos"][1]("aoooa", np.random.default_rng(seed)) in ("aooa", "aooooa")


def test_case_changes_nothing_but_case(rows):
    after = perturb(rows, "case", seed=0)["text"]
    assert [text.lower() for text in after] == rows["text"]
    assert any(text.isupper() for text in after)
    assert any(text.istitle() for text in after)


def test_pairs_are_perturbed_on_both_sides(rows):
    pairs = tiny.Examples({**rows.columns, "text_pair": rows["text"][::-1]}, rows.labels)
    after = perturb(pairs, "typos", seed=0)
    assert after["text"] != pairs["text"]
    assert after["text_pair"] != pairs["text_pair"]


def test_noise_is_gaussian_and_stays_a_picture():
    grey = tiny.Examples({"image": np.full((20, 16, 16, 1), 128, dtype=np.uint8)})
    after = perturb(grey, "noise", seed=0)["image"]
    assert (after.dtype, after.shape) == (np.uint8, (20, 16, 16, 1))
    assert after.astype(float).std() == pytest.approx(NOISE * 255, rel=0.05)
    assert after.astype(float).mean() == pytest.approx(128, abs=1)
    mixed = tiny.Examples({"image": [np.zeros((4, 4, 1), np.uint8), np.zeros((5, 4, 1), np.uint8)]})
    assert [image.shape for image in perturb(mixed, "noise", seed=0)["image"]] == [(4, 4, 1), (5, 4, 1)]
