"""The loss audit, to be read: what share of the loss and of the gradient each term has, and which go unheard."""

from __future__ import annotations

from kdc.record import RunRecord, Stage
from kdc.report import table
from kdc.report.summary import Grid, Row
from kdc.report.table import Cell

UNHEARD = 0.01
"""A term with less than this share of the gradient trains next to nothing, whatever its share of the loss."""


def audit(stage: Stage) -> Grid:
    """A line a term: at each audited step its shares of the loss and of the gradient. No rows without an audit."""
    looked = stage.train.audit if stage.train else []
    terms = list(dict.fromkeys(key for at in looked for key in at.terms))
    head: list[str | Cell] = ["term"]
    for at in looked:
        head += [Cell("of the loss", f"step {at.step:,}"), Cell("of the gradient", f"step {at.step:,}")]
    rows: list[Row] = []
    for key in terms:
        row: Row = [key]
        for at in looked:
            term = at.terms.get(key)
            row += [_share(term.share), _share(term.gradient_share)] if term else [table.MISSING] * 2
        rows.append(row)
    return Grid(f"Shares of the terms of {stage.name}", head, rows)


def unheard(stage: Stage) -> list[str]:
    """A line for every term that was heard at no audited step, though others were there to be heard.

    Once is enough: a term that finds its student already right, or that its schedule fades out, has taught or will.
    """
    most: dict[str, float] = {}
    for at in stage.train.audit if stage.train else []:
        for key, term in at.terms.items() if len(at.terms) > 1 else ():
            most[key] = max(most.get(key, 0.0), term.gradient_share)
    return [
        f"{stage.name}: the term {key} never has more than {_share(share)} of the gradient and teaches next to "
        f"nothing; raise loss.terms.{key}.weight or switch it off"
        for key, share in most.items()
        if share < UNHEARD
    ]


def all_unheard(record: RunRecord) -> list[str]:
    return [line for stage in record.stages for line in unheard(stage)]


def _share(value: float) -> str:
    return f"{value:.1%}" if value >= 0.001 or value == 0 else "<0.1%"
