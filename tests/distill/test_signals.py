"""A teacher's signals: online and cached are two paths to the same numbers, and what is cached is found by content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdc.data.examples import Examples
from kdc.distill.batches import LengthBuckets
from kdc.distill.signals import (
    CachedSignals,
    OnlineSignals,
    compute_signals,
    content_key,
    signal_bytes,
    wanted_signals,
)
from kdc.distill.terms.base import TERMS
from kdc.models.build import Built
from kdc.models.taps import LENGTH, outline
from tests import tiny

ROWS = tiny.sentences(30)
EVERYTHING = {
    "attentions": [0, 2],
    "features": [],
    "hidden_states": [0, 1, 3],
    "input_gradients": [],
    "keys": [2],
    "logits": [],
    "queries": [0, 1, 2],
    "values": [1],
}


def teacher(**settings: Any) -> Built:
    return tiny.built_bert(ROWS, **{"layers": 3, **settings})


def cached(built: Built, rows: Examples, folder: Path, wanted: Any, **more: Any) -> CachedSignals:
    folder.mkdir(exist_ok=True)
    compute_signals(built, rows, folder, wanted, advance=lambda count: None, **more)
    return CachedSignals(folder, rows)


def flat(said: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Every tensor by signal and layer, on the CPU; layers that nobody wants are absent."""
    found = {}
    for signal, value in said.items():
        for layer, part in enumerate(value if isinstance(value, tuple) else (value,)):
            if part is not None:
                found[f"{signal}.{layer}"] = part.cpu()
    return found


def without_padding(name: str, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Zeros where a token of a text is padding: nothing is said there."""
    if name.startswith("attentions"):
        return values * mask[:, None, :, None] * mask[:, None, None, :]
    return values * mask[..., None] if values.ndim == 3 else values


def masks(built: Built, rows: list[int]) -> torch.Tensor:
    encoded = built.encoder.encode(ROWS)
    return torch.from_numpy(built.encoder.collate([encoded[row] for row in rows])["attention_mask"])


def plan(built: Built) -> list[list[int]]:
    lengths = [built.encoder.length(row) for row in built.encoder.encode(ROWS)]
    return list(LengthBuckets(lengths, 8, seed=3))


def test_cached_and_online_signals_are_bit_identical_under_one_batch_plan(tmp_path: Path) -> None:
    built = teacher()
    batches = plan(built)
    stored = cached(built, ROWS, tmp_path / "a", EVERYTHING, batches=batches)
    online = OnlineSignals(built, built.encoder.encode(ROWS), EVERYTHING)
    for rows in batches:
        mask, mine, theirs = masks(built, rows), flat(stored(rows)), flat(online(rows))
        assert set(mine) == set(theirs) == {f"{s}.{i}" for s, layers in EVERYTHING.items() for i in layers or [0]}
        for name, values in theirs.items():
            assert torch.equal(mine[name], without_padding(name, values, mask)), name


def test_under_another_plan_they_agree_within_rounding(tmp_path: Path) -> None:
    built = teacher()
    stored = cached(built, ROWS, tmp_path / "a", EVERYTHING)
    online = OnlineSignals(built, built.encoder.encode(ROWS), EVERYTHING)
    for rows in plan(built):
        mask, mine, theirs = masks(built, rows), flat(stored(rows)), flat(online(rows))
        for name, values in theirs.items():
            scale = max(1.0, float(values.abs().max()))
            assert torch.allclose(mine[name] / scale, without_padding(name, values, mask) / scale, atol=1e-5), name
        assert torch.equal(mine["logits.0"].argmax(-1), theirs["logits.0"].argmax(-1))


def test_layers_that_nobody_wants_are_neither_kept_nor_said(tmp_path: Path) -> None:
    built = teacher()
    stored = cached(built, ROWS, tmp_path / "a", {"hidden_states": [2]})
    assert {path.name for path in (tmp_path / "a").glob("*.npy")} == {"ids.npy", "sizes.npy", "hidden_states.2.npy"}
    for source in (stored, OnlineSignals(built, built.encoder.encode(ROWS), {"hidden_states": [2]})):
        said = source([0, 1])["hidden_states"]
        assert [part is not None for part in said] == [False, False, True, False]


def test_signals_are_found_by_content_in_any_order(tmp_path: Path) -> None:
    built = teacher()
    doubled = ROWS.select([*range(30), 4, 4, 7])
    folder = tmp_path / "a"
    cached(built, doubled, folder, {"logits": []})
    assert len(np.load(folder / "ids.npy")) == len(set(ROWS["text"]))
    order = np.random.default_rng(1).permutation(len(doubled))
    shuffled = doubled.select(order)
    logits = CachedSignals(folder, shuffled)(range(len(shuffled)))["logits"]
    assert (logits.dtype, tuple(logits.shape)) == (torch.float32, (33, 2))
    for row, got in zip(built.encoder.encode(shuffled), logits, strict=True):
        with torch.no_grad():
            alone = built.model(**{name: torch.tensor([ids]) for name, ids in row.items()}).logits[0]
        np.testing.assert_allclose(got, alone.numpy(), atol=1e-4)


def test_the_teacher_is_asked_once_for_every_distinct_row(tmp_path: Path) -> None:
    finished: list[int] = []
    (tmp_path / "a").mkdir()
    doubled = ROWS.select([*range(30), 4, 4, 7])
    compute_signals(teacher(), doubled, tmp_path / "a", {"logits": []}, advance=finished.append)
    assert sum(finished) == len(set(ROWS["text"]))


@pytest.mark.parametrize("text", ["", "zzzz not there", "the film"])
def test_a_row_that_was_not_computed_is_an_error(tmp_path: Path, text: str) -> None:
    cached(teacher(), ROWS, tmp_path / "a", {"logits": []})
    with pytest.raises(LookupError, match="do not cover these rows"):
        CachedSignals(tmp_path / "a", Examples({"text": [ROWS["text"][0], text]}))


def test_the_key_depends_on_contents_alone() -> None:
    assert content_key(ROWS.select(range(29, -1, -1))) == content_key(ROWS)
    assert content_key(ROWS.select([*range(30), 3, 3])) == content_key(ROWS)
    relabelled = Examples({**ROWS.columns, "label": 1 - ROWS["label"]}, ROWS.labels)
    assert content_key(relabelled) == content_key(ROWS)
    assert content_key(ROWS.select(range(29))) != content_key(ROWS)
    changed = Examples({"text": [*ROWS["text"][:-1], "another film"], "label": ROWS["label"]}, ROWS.labels)
    assert content_key(changed) != content_key(ROWS)
    assert content_key(Examples({"text": ["ab"], "text_pair": ["c"]})) != content_key(
        Examples({"text": ["a"], "text_pair": ["bc"]})
    )


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_pictures_have_signals_too(tmp_path: Path, kind: str) -> None:
    rows = tiny.pictures(12)
    built = tiny.built_net(rows, kind)
    wanted = {"features": [], "hidden_states": [1, 2], "input_gradients": [], "logits": []}
    stored = cached(built, rows, tmp_path / "a", wanted, batches=[[0, 1, 2, 3], list(range(4, 12))])
    online = OnlineSignals(built, built.encoder.encode(rows), wanted)
    for batch in ([0, 1, 2, 3], list(range(4, 12))):
        mine, theirs = flat(stored(batch)), flat(online(batch))
        assert set(mine) == {"features.0", "hidden_states.1", "hidden_states.2", "input_gradients.0", "logits.0"}
        for name, values in theirs.items():
            assert torch.equal(mine[name], values), name


def test_the_largest_logits_are_kept_and_the_rest_keeps_its_sum(tmp_path: Path) -> None:
    labels = tuple("abcdefgh")
    rows = Examples({"text": ROWS["text"], "label": np.arange(30) % 8}, labels)
    built = tiny.built_bert(rows)
    whole = cached(built, rows, tmp_path / "whole", {"logits": []})(range(30))["logits"]
    top = cached(built, rows, tmp_path / "top", {"logits": []}, top_k=3)(range(30))["logits"]
    best = whole.topk(3).indices
    assert torch.equal(top.gather(1, best), whole.gather(1, best))
    torch.testing.assert_close(top.logsumexp(1), whole.logsumexp(1))
    others = top.scatter(1, best, float("nan"))
    for row in others:
        left = row[~row.isnan()]
        assert len(left) == 5
        assert (left == left[0]).all()
    sizes = [sum(path.stat().st_size for path in (tmp_path / name).glob("logits*")) for name in ("whole", "top")]
    assert sizes[1] != sizes[0]
    same = cached(built, rows, tmp_path / "same", {"logits": []}, top_k=8)(range(30))["logits"]
    assert torch.equal(same, whole), "as many as there are: nothing is left out"


def test_the_estimate_is_near_what_is_written(tmp_path: Path) -> None:
    built = teacher()
    encoded = built.encoder.encode(ROWS)
    tokens = float(np.mean([built.encoder.length(row) for row in encoded]))
    cached(built, ROWS, tmp_path / "a", EVERYTHING)
    written = sum(path.stat().st_size for path in (tmp_path / "a").glob("*.*.npy"))
    seen = outline(built.model, EVERYTHING, name="t", vocabulary="x")
    assert seen.shapes["logits"] == ((2, 2),)
    assert LENGTH not in seen.shapes["logits"][0]
    # the mean of squares is above the square of the mean, and headers of files are small
    assert 0.7 * written < len(set(ROWS["text"])) * signal_bytes(seen, EVERYTHING, tokens) < 1.3 * written


def test_what_terms_want_is_the_union_of_their_layers() -> None:
    names = {"logits", "hidden_states", "attentions"}
    student = outline(tiny.built_bert(ROWS, layers=2).model, names, name="s", vocabulary="x")
    one = outline(teacher(layers=6).model, names, name="t", vocabulary="x")
    terms = [
        TERMS["kl"](name="kl"),
        TERMS["hidden"](name="hidden", layer_map="uniform"),
        TERMS["hidden"](name="hidden", layer_map=[(0, 0)]),
        TERMS["attention"](name="attention", layer_map="last"),
    ]
    assert wanted_signals(terms, student, one) == {"attentions": [5], "hidden_states": [1, 3, 6], "logits": []}
    assert wanted_signals([TERMS["hard"](name="hard")], student, one) == {}
