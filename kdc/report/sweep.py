"""report.html and report.md of a sweep: a leaderboard of its runs, the Pareto front, and what each setting does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from kdc.files import write_atomically
from kdc.record import RunRecord
from kdc.report import leaderboard as board
from kdc.report.charts import pareto, sweep
from kdc.report.markdown import flat, grid
from kdc.report.page import render


def write_sweep_report(folder: Path, records: Mapping[str, RunRecord], *, output: Path | None = None) -> None:
    """Write both pages of the sweep in `folder` there, or into `output`; `records` go by the names of their folders."""
    target = output or folder
    links = {
        name: quote(os.path.relpath(page, target))
        for name in records
        if (page := folder / name / "report.html").exists()
    }
    write_atomically(target / "report.md", sweep_markdown(folder.resolve().name, records))
    write_atomically(target / "report.html", sweep_page(folder.resolve().name, records, links=links))


def sweep_page(title: str, records: Mapping[str, RunRecord], *, links: Mapping[str, str]) -> str:
    """`links` are addresses of the runs' own pages."""
    entries = board.leaderboard(records)
    on = board.common_scale(records.values())
    points = [entry.point for entry in entries if entry.point is not None]
    tradeoff = pareto.picture(points, on) if on and len(points) > 1 else None
    settings = sweep.pictures(entries, board.keys(entries), on) if on else []
    failures = board.failures(entries)
    parts = {
        ("leaderboard", "Leaderboard"): True,
        ("failures", "Failures"): failures,
        ("tradeoff", "Trade-off"): tradeoff,
        ("settings", "Settings"): settings,
    }
    return render(
        "sweep.html.jinja",
        title=title,
        sections=[named for named, content in parts.items() if content],
        said=board.said(entries),
        head=board.headers(entries),
        left=2 + len(board.keys(entries)),
        rows=list(zip(entries, board.rows(entries), strict=True)),
        links=links,
        failures=failures,
        tradeoff=tradeoff,
        settings=settings,
        legend=sweep.LEGEND,
    )


def sweep_markdown(title: str, records: Mapping[str, RunRecord]) -> str:
    entries = board.leaderboard(records)
    body = [flat(ranked.cell for ranked in row) for row in board.rows(entries)]
    failures = [f"- {folder}: {said}" for folder, said in board.failures(entries)]
    sections = [
        f"# {title}",
        f"**{board.said(entries)}**",
        grid(board.headers(entries), body),
        "Every run by the variant that ships, the best quality first; brackets hold 95% intervals.",
        "\n".join(failures),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"
