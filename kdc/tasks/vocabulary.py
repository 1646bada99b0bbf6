"""Tokenizers with fewer pieces: the same text is cut the same way, if all pieces that it was cut into are kept."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from kdc.errors import KdcError

KNOWN = ("WordPiece", "BPE", "Unigram")


def trimmed(tokenizer_json: str, kept: Collection[int]) -> tuple[str, list[int]]:
    """The tokenizer with the pieces `kept` and those that it cannot do without, and the old numbers of its pieces.

    Added tokens stay, and so do pieces that others are made of (BPE merges them pair by pair). Pieces are numbered anew
    in their old order. Why texts of kept pieces are cut as before: WordPiece takes the longest piece, Unigram the most
    probable pieces, BPE the pairs in the order of its list; leaving out what was not taken changes none of these.
    """
    told = json.loads(tokenizer_json)
    model = told["model"]
    if model.get("type") not in KNOWN:
        raise KdcError(
            f"compress.vocabulary: a tokenizer of type {model.get('type')} cannot be trimmed",
            f"kdc trims {', '.join(KNOWN)}",
        )
    old, keeping = _numbers(model), set(kept)
    added = {entry["content"]: entry["id"] for entry in told.get("added_tokens") or []}
    unknown = model["vocab"][model["unk_id"]][0] if model.get("unk_id") is not None else model.get("unk_token")
    prefix = str(model.get("continuing_subword_prefix") or "")
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model.get("merges", [])]
    wanted = {piece for piece, number in old.items() if number in keeping or piece in added or piece == unknown}
    wanted |= set(_parts(wanted, merges, prefix))
    order = sorted({**{piece: old[piece] for piece in wanted}, **added}.items(), key=lambda entry: entry[1])
    new = {piece: number for number, (piece, _) in enumerate(order)}
    if model["type"] == "Unigram":
        model["vocab"] = [entry for entry in model["vocab"] if entry[0] in wanted]
        model["unk_id"] = new.get(unknown)
    else:
        model["vocab"] = {piece: new[piece] for piece in old if piece in wanted}
    if merges:
        model["merges"] = [
            [one, other] for one, other in merges if {one, other, one + other.removeprefix(prefix)} <= wanted
        ]
    for entry in told.get("added_tokens") or []:
        entry["id"] = new[entry["content"]]
    _renumber(told.get("post_processor"), new)
    return json.dumps(told, ensure_ascii=False), [number for _, number in order]


def _numbers(model: Mapping[str, Any]) -> dict[str, int]:
    """Pieces with their numbers."""
    if model["type"] == "Unigram":
        return {piece: number for number, (piece, _) in enumerate(model["vocab"])}
    return dict(model["vocab"])


def _parts(wanted: Collection[str], merges: Collection[tuple[str, ...]], prefix: str) -> Iterator[str]:
    """What the pieces are merged from, down to letters."""
    made: dict[str, list[tuple[str, ...]]] = {}
    for pair in merges:
        made.setdefault(pair[0] + pair[1].removeprefix(prefix), []).append(pair)
    todo, seen = list(wanted), set(wanted)
    while todo:
        for pair in made.get(todo.pop(), []):
            for part in pair:
                if part not in seen:
                    seen.add(part)
                    todo.append(part)
                    yield part


def _renumber(part: Any, new: Mapping[str, int]) -> None:
    """Special tokens that a post-processor adds, by their new numbers."""
    if isinstance(part, list):
        for entry in part:
            _renumber(entry, new)
    elif isinstance(part, dict):
        if {"ids", "tokens"} <= part.keys():
            part["ids"] = [new[token] for token in part["tokens"]]
        for key, value in part.items():
            if key in ("sep", "cls") and isinstance(value, list):
                part[key] = [value[0], new[value[0]]]
            else:
                _renumber(value, new)
