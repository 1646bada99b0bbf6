"""What a variant changed for single rows and for parts of them, prepared for a page: which lines, tokens, pictures."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdc.record import Comparison, Flip, RunRecord, Variant
from kdc.report import table
from kdc.report.settings import MOST_FLIPS
from kdc.report.summary import Grid, Row, compared_metric
from kdc.report.table import Cell
from kdc.shipped import shipped

if TYPE_CHECKING:
    from kdc.report.charts.svg import Picture

LEVELS = 4
FOR, AGAINST = (29, 95, 191), (184, 80, 11)
Pieces = Sequence[tuple[str, float]]
Tokens = list[tuple[str, str]]
"""Pieces of a text, each with its class in the style sheet: `for-1` to `for-4`, `not-1` to `not-4`, or none."""


@dataclass(frozen=True)
class Shown:
    """A flipped row as the page shows it; attributions by variant."""

    flip: Flip
    texts: dict[str, str]
    images: dict[str, str]
    tokens: dict[str, Tokens]
    strongest: dict[str, str]
    heat: dict[str, str]


@dataclass(frozen=True)
class Change:
    """One comparison of a variant with another."""

    variant: Variant
    comparison: Comparison
    metrics: Grid
    pictures: list[Picture]
    flips: list[Shown]


def changes(record: RunRecord) -> list[Change]:
    """All comparisons, those of what ships first, then from the last variant to the first."""
    from kdc.report.charts.changes import groups

    ships = shipped(record)
    return [
        Change(variant, it, _metrics(variant, it), groups(it, f"groups-{number}-{place}"), _flips(it))
        for number, variant in sorted(enumerate(record.variants, 1), key=lambda each: (each[1] is not ships, -each[0]))
        for place, it in enumerate(variant.comparisons, 1)
    ]


def overview(found: Sequence[Change]) -> Grid:
    """A line a comparison: the primary metric, and how many rows changed sides."""
    rows: list[Row] = []
    for change in found:
        churn, name = change.comparison.churn, compared_metric(change.variant, change.comparison)
        difference = change.comparison.metrics[name]
        rows.append(
            [
                change.variant.name,
                change.comparison.against,
                Cell(table.change(name, difference.value), table.change_interval(name, difference.ci95)),
                table.p_value(difference.p_adjusted if difference.p_adjusted is not None else difference.p),
                f"{churn.right_to_wrong:,}",
                f"{churn.wrong_to_right:,}",
                Cell(f"{churn.changed:,}", f"{churn.changed / churn.n:.1%}" if churn.n else ""),
            ]
        )
    head = ["variant", "against", "change", "p", "right to wrong", "wrong to right", "answered otherwise"]
    return Grid("Every comparison", head, rows)


def _metrics(variant: Variant, comparison: Comparison) -> Grid:
    rows: list[Row] = [
        [
            name,
            Cell(table.change(name, it.value), table.change_interval(name, it.ci95)),
            table.p_value(it.p),
            table.p_value(it.p_adjusted),
            it.test,
        ]
        for name, it in comparison.metrics.items()
    ]
    caption = f"{variant.name} against {comparison.against}"
    return Grid(caption, ["metric", "change", "p", "p adjusted", "test"], rows)


def _flips(comparison: Comparison) -> list[Shown]:
    return [
        Shown(
            flip,
            texts={name: value for name, value in flip.inputs.items() if not _is_picture(value)},
            images={name: value for name, value in flip.inputs.items() if _is_picture(value)},
            tokens={name: tokens(pieces) for name, pieces in flip.attributions.items() if not _is_grid(pieces)},
            strongest={name: strongest(pieces) for name, pieces in flip.attributions.items()},
            heat={name: heat(pieces) for name, pieces in flip.attributions.items() if _is_grid(pieces)},
        )
        for flip in comparison.flips[:MOST_FLIPS]
    ]


def tokens(pieces: Pieces) -> Tokens:
    """Pieces with the class of their strength, on the scale of the strongest."""
    most = max((abs(value) for _, value in pieces), default=0.0)
    levels = [round(LEVELS * abs(value) / most) if most else 0 for _, value in pieces]
    return [
        (text, f"{'for' if value > 0 else 'not'}-{level}" if level else "")
        for (text, value), level in zip(pieces, levels, strict=True)
    ]


def strongest(pieces: Pieces) -> str:
    """The five that weigh most, with their sign: for those who do not see the colours."""
    ranked = sorted(pieces, key=lambda piece: -abs(piece[1]))[:5]
    return ", ".join(f"{text} {'−' if value < 0 else '+'}{abs(value):.2g}" for text, value in ranked)


def heat(pieces: Pieces) -> str:
    """Patches named `line,column` as a tiny picture, a pixel each: a `data:` address."""
    import numpy as np
    from PIL import Image

    places = [tuple(map(int, name.split(","))) for name, _ in pieces]
    pixels = np.zeros((*(1 + np.max(places, axis=0)), 4), dtype=np.uint8)
    most = max(abs(value) for _, value in pieces) or 1.0
    for place, (_, value) in zip(places, pieces, strict=True):
        pixels[place] = (*(FOR if value > 0 else AGAINST), round(255 * abs(value) / most))
    file = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _is_picture(value: str) -> bool:
    return value.startswith("data:image/png;base64,")


def _is_grid(pieces: Pieces) -> bool:
    return bool(pieces) and all(re.fullmatch(r"\d{1,3},\d{1,3}", name) for name, _ in pieces)
