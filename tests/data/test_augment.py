"""New rows out of old ones: the published procedures by hand, what every setting does, and what is left out."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from kdc.data.augment import AugmentConfig, Place, augment
from kdc.data.examples import IGNORED, Examples
from kdc.errors import KdcError
from tests import tiny

MASK = "[MASK]"
WORDS = [f"w{number}" for number in range(12)]


def texts(count: int, *, words: int = 12, seed: int = 0) -> Examples:
    """Texts of distinct words, so that each word tells where it came from."""
    random = np.random.default_rng(seed)
    rows = [" ".join(f"{row}x{word}" for word in range(words)) for row in range(count)]
    return Examples({"text": rows, "label": random.integers(0, 2, count)}, ("a", "b"))


def scripted(places: Sequence[Place], count: int) -> list[list[str]]:
    """Words that tell all of a text and the place in it; none for every fourth word or so."""
    return [
        [] if end % 4 == 0 else [f"{sum(map(ord, text)) % 97}at{start}no{number}" for number in range(count)]
        for text, start, end in places
    ]


def made(rows: Examples, *, seed: int = 0, **settings: Any) -> list[str]:
    """The new texts alone."""
    new = augment(rows, AugmentConfig(**settings), seed=seed, mask_token=MASK, candidates=scripted)
    assert list(new["text"][: len(rows)]) == list(rows["text"])
    return list(new["text"][len(rows) :])


def algorithm_1(text: str, p_t: float, samples: int, k: int, random: np.random.Generator) -> list[str]:
    """Jiao et al. 2020, Algorithm 1, as it is printed, on words between single spaces."""
    augmented = []
    for _ in range(samples):
        words = text.split(" ")
        draws = random.random(2 * len(words) + 3)
        for i in range(len(words)):
            before = len(" ".join(words[:i])) + (i > 0)
            (candidates,) = scripted([(" ".join(words), before, before + len(words[i]))], k)
            if draws[i] <= p_t and candidates:
                words[i] = candidates[int(draws[len(words) + i] * k)]
        augmented.append(" ".join(words))
    return augmented


def test_replacement_is_algorithm_1_of_tinybert() -> None:
    rows = Examples({"text": [" ".join(WORDS[: 1 + row % 12]) + f" r{row}" for row in range(300)]})
    random = np.random.default_rng([5, 3])
    expected = [new for text in rows["text"] for new in algorithm_1(text, 0.4, 3, 15, random)]
    seen = set(rows["text"])
    assert made(rows, seed=5, copies=3, replace=0.4) == [new for new in dict.fromkeys(expected) if new not in seen]
    assert len(expected) > 500


@pytest.mark.parametrize("p", [0.1, 0.35])
def test_the_share_of_masked_words_is_p_mask(p: float) -> None:
    new = [word for text in made(texts(2000), mask=p) for word in text.split()]
    # Unchanged rows are left out, with so many words that they are few.
    kept = 1 - (1 - p) ** 12
    assert new.count(MASK) / len(new) == pytest.approx(p / kept, abs=4 * (p / 24_000) ** 0.5)


def test_a_word_is_masked_or_replaced_and_never_both() -> None:
    new = [word for text in made(texts(2000), mask=0.2, replace=0.3) for word in text.split()]
    masked, replaced = new.count(MASK), sum("at" in word for word in new)
    assert masked / len(new) == pytest.approx(0.2, abs=0.01)
    replaceable = np.mean([end % 4 != 0 for text in texts(50)["text"] for _, end in _spans(text)])
    assert replaced / len(new) == pytest.approx(0.3 * replaceable, abs=0.03)
    everything = [word for text in made(texts(50), mask=0.5, replace=0.5) for word in text.split()]
    assert sum(word == MASK or "at" in word for word in everything) > 0.8 * len(everything)


def _spans(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(r"\S+", text)]


def test_ngrams_are_runs_of_1_to_5_words_all_as_likely_wherever_they_begin() -> None:
    new = made(texts(4000), ngram=1)
    assert len(new) == 4000
    runs = [[int(word.split("x")[1]) for word in text.split()] for text in new]
    assert all(run == list(range(run[0], run[0] + len(run))) for run in runs)
    lengths = Counter(len(run) for run in runs)
    assert sorted(lengths) == [1, 2, 3, 4, 5]
    assert all(abs(count - 800) < 5 * 800**0.5 for count in lengths.values())
    begins = Counter(run[0] for run in runs if len(run) == 5)
    assert sorted(begins) == list(range(8))
    assert max(begins.values()) < 2 * min(begins.values())


def test_the_share_of_ngrams_is_p_ngram_and_masking_comes_before() -> None:
    assert len(made(texts(3000), ngram=0.25)) / 3000 == pytest.approx(0.25, abs=0.03)
    new = [text.split() for text in made(texts(3000), mask=0.3, ngram=0.25)]
    runs = [words for words in new if len(words) < 12]
    assert len(runs) / len(new) == pytest.approx(0.25, abs=0.03)
    masked = [word == MASK for words in runs for word in words]
    # Runs of masks alone are left out but once.
    assert np.mean(masked) == pytest.approx(0.3, abs=0.06)


def test_a_text_shorter_than_the_ngram_stays_whole_and_is_no_new_row() -> None:
    new = made(Examples({"text": ["one", "two words", "..."]}), ngram=1, copies=40)
    assert sorted(new) == ["two", "words"]


def test_what_stands_between_words_stays() -> None:
    rows = Examples({"text": ["(A film's  plot): well-made,\nisn't it?"]})
    (text,) = made(rows, mask=1)
    assert text == f"({MASK} {MASK}  {MASK}): {MASK}-{MASK},\n{MASK} {MASK}?"
    runs = set(made(rows, ngram=1, copies=200))
    assert {"A film's  plot): well", "made,\nisn't it", "it"} <= runs


def test_copies_are_so_many_a_row_with_other_draws_each() -> None:
    few, many = made(texts(100), mask=0.3, copies=1), made(texts(100), mask=0.3, copies=5)
    assert 95 <= len(few) <= 100
    assert 450 < len(many) <= 500
    assert len(set(many)) == len(many)


def test_candidates_is_how_many_words_a_replacement_is_drawn_from() -> None:
    for candidates in (1, 3, 15):
        new = " ".join(made(texts(300), replace=0.5, candidates=candidates))
        counts = Counter(re.findall(r"no(\d+)", new))
        assert set(counts) == {str(number) for number in range(candidates)}
        assert max(counts.values()) < 2 * min(counts.values())


def test_new_rows_have_no_label_and_old_ones_keep_theirs() -> None:
    rows = texts(700)
    new = augment(rows, AugmentConfig(mask=0.3, copies=2), seed=0, mask_token=MASK)
    assert new.labels == ("a", "b")
    assert new["label"].dtype == np.int64
    assert new["label"][:700].tolist() == rows["label"].tolist()
    assert set(new["label"][700:].tolist()) == {IGNORED}
    classless = Examples({"text": rows["text"]})
    assert list(augment(classless, AugmentConfig(mask=0.3), seed=0, mask_token=MASK).columns) == ["text"]


def test_one_seed_makes_equal_rows_and_another_seed_others() -> None:
    one, same, other = (made(texts(50), seed=seed, mask=0.3, ngram=0.1) for seed in (0, 0, 1))
    assert one == same
    assert one != other


def test_no_new_row_is_like_one_of_the_held_out_splits_or_another_row() -> None:
    rows = Examples({"text": ["a b", "c"]})
    held_out = [Examples({"text": ["a  [MASK] "]}), Examples({"text": ["[MASK]"]})]
    settings = AugmentConfig(mask=0.5, copies=60)
    new = augment(rows, settings, seed=0, held_out=held_out, mask_token=MASK)
    assert sorted(new["text"][2:]) == ["[MASK] [MASK]", "[MASK] b"]
    without = augment(rows, settings, seed=0, mask_token=MASK)
    assert sorted(without["text"][2:]) == ["[MASK]", "[MASK] [MASK]", "[MASK] b", "a [MASK]"]


def test_of_pairs_the_first_the_second_and_both_are_changed_in_turn() -> None:
    rows = Examples({"text": [f"l{i}" for i in range(30)], "text_pair": [f"r{i}" for i in range(30)]})
    new = augment(
        rows, AugmentConfig(replace=1, copies=3), seed=0, candidates=lambda places, k: [["new"]] * len(places)
    )
    pairs = list(zip(new["text"][30:], new["text_pair"][30:], strict=True))
    assert pairs[:4] == [("new", "r0"), ("l0", "new"), ("new", "new"), ("new", "r1")]
    assert len(pairs) == 30 + 30 + 1
    once = augment(rows, AugmentConfig(mask=1), seed=0, mask_token=MASK)
    assert list(zip(once["text"][30:33], once["text_pair"][30:33], strict=True)) == [
        (MASK, "r0"), ("l1", MASK), (MASK, MASK),
    ]  # fmt: skip


def test_pictures_are_moved_by_up_to_shift_and_the_rest_is_black() -> None:
    dot = np.zeros((1, 9, 11, 1), dtype=np.uint8)
    dot[0, 4, 5] = 200
    new = augment(Examples({"image": dot}), AugmentConfig(shift=2, copies=2000), seed=0)["image"]
    assert new.shape == (25, 9, 11, 1), "one for each of 5 x 5 places, the picture itself among them"
    places = {tuple(np.argwhere(image[..., 0])[0]) for image in new}
    assert places == {(4 + down, 5 + across) for down in range(-2, 3) for across in range(-2, 3)}
    assert all(image.max() == image.sum() == 200 for image in new)


def test_pictures_are_mirrored_left_to_right_with_probability_flip() -> None:
    rows = tiny.pictures(1000, channels=3)
    new = augment(rows, AugmentConfig(flip=0.3), seed=0)
    assert len(new) - 1000 == pytest.approx(300, abs=60)
    originals = {row.tobytes() for row in rows["image"]}
    assert all(np.ascontiguousarray(image[:, ::-1]).tobytes() in originals for image in new["image"][1000:])
    assert set(new["label"][1000:].tolist()) == {IGNORED}
    assert isinstance(new["image"], np.ndarray)
    both = augment(rows, AugmentConfig(flip=1, shift=1), seed=0)
    assert len(both) == 2000
    assert not any(np.ascontiguousarray(image[:, ::-1]).tobytes() in originals for image in both["image"][1000:1005])


def test_pictures_of_several_sizes_keep_theirs() -> None:
    random = np.random.default_rng(0)
    images = [random.integers(1, 256, (5 + i, 6, 1), dtype=np.uint8) for i in range(3)]
    new = augment(Examples({"image": images}), AugmentConfig(shift=4), seed=0)["image"]
    assert [image.shape[0] for image in new] == [5, 6, 7, 5, 6, 7]
    with pytest.raises(KdcError, match=r"dataset\.augment\.shift=5 can move a picture of 5x6 out .*; take at most 4"):
        augment(Examples({"image": images}), AugmentConfig(shift=5), seed=0)


def test_progress_is_told_to_the_last_row() -> None:
    told: list[tuple[int, int]] = []
    augment(texts(400), AugmentConfig(ngram=1, copies=3), seed=0, advance=lambda *at: told.append(at))
    assert [done for done, _ in told] == [512, 1024, 1200]
    assert {total for _, total in told} == {1200}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"copies": 0, "mask": 0.1}, "copies"),
        ({"candidates": 0, "replace": 0.1}, "candidates"),
        ({"mask": 1.5}, "mask"),
        ({"ngram": -0.1}, "ngram"),
        ({"replace": 2}, "replace"),
        ({"flip": 1.1}, "flip"),
        ({"shift": -1}, "shift"),
        ({}, "changes nothing; set mask, ngram or replace for texts, shift or flip for images"),
        ({"copies": 3, "mask": 0, "candidates": 3}, "changes nothing"),
        ({"mask": 0.6, "replace": 0.5}, "mask and replace are at most 1 together"),
        ({"masc": 0.6}, "masc"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        AugmentConfig(**settings)


def test_what_the_teacher_does_not_have_is_refused() -> None:
    with pytest.raises(KdcError, match=r"augment\.mask: the teacher's tokenizer has no mask token; set .*mask=0"):
        augment(texts(2), AugmentConfig(mask=0.1), seed=0)
    with pytest.raises(KdcError, match=r"augment\.replace: there is no masked-LM head to ask; set .*replace=0"):
        augment(texts(2), AugmentConfig(replace=0.1), seed=0, mask_token=MASK)


def test_what_is_for_another_modality_is_told_by_its_key() -> None:
    settings = AugmentConfig(mask=0.1, ngram=0.1, replace=0.1, shift=1, flip=0.5)
    assert list(settings.problems("image")) == [
        f"dataset.augment.{key}: is not for images; for them there is shift, flip"
        for key in ("mask", "ngram", "replace")
    ]
    assert list(settings.problems("text")) == [
        f"dataset.augment.{key}: is not for texts; for them there is mask, ngram, replace" for key in ("shift", "flip")
    ]
