"""Rows that a variant broke: right in another, wrong in this one; the worst first, with what the models read."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from kdc.data.examples import Examples
from kdc.measure.scores import Scores
from kdc.record import Flip

LONGEST_TEXT, LARGEST_SIDE = 500, 96
WITHHELD = "(withheld)"


def worst_flips(
    own: Scores, other: Scores, truth: Sequence[Any], examples: Examples, *, most: int, show: bool
) -> list[Flip]:
    """At most so many rows that `other` answers better, those first that lost most and where both were most sure.

    Without `show`, nothing of a row but its number, its id and answers that are labels.
    """
    lost = other.hits - own.hits
    sure = np.zeros(len(lost))
    if own.confidences is not None and other.confidences is not None:
        sure = own.confidences + other.confidences
    order = np.lexsort((-sure, -lost))  # stable: rows that are alike keep their order
    return [
        Flip(
            row=row,
            id=examples.ids[row],
            truth=told(truth[row], examples.labels, show=show),
            answer=told(own.answers[row], examples.labels, show=show),
            other=told(other.answers[row], examples.labels, show=show),
            confidence=None if own.confidences is None else float(own.confidences[row]),
            inputs={name: _readable(examples[name][row]) for name in examples.inputs} if show else {},
        )
        for row in map(int, order[:most])
        if lost[row] > 0
    ]


def told(answer: Any, labels: Sequence[str], *, show: bool) -> str:
    """The answer as text. One that is not of the label set may repeat a user's row: it needs `show`."""
    text = str(answer)
    return text if show or text in labels else WITHHELD


def _readable(value: Any) -> str:
    """A text, cut where it is very long, or a picture as a `data:` address."""
    if isinstance(value, np.ndarray):
        return _picture(value)
    text = str(value)
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "…"


def _picture(pixels: np.ndarray) -> str:
    """uint8 `[height, width, channels]` as PNG, made smaller where it is large."""
    from PIL import Image

    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
