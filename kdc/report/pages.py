"""What a run leaves to read: its record and the pages that are made from it."""

from __future__ import annotations

from pathlib import Path

from kdc.record import RunRecord
from kdc.report.gain import gain_verdict
from kdc.report.html import write_html
from kdc.report.markdown import write_markdown
from kdc.report.verdict import verdict


def save_run(record: RunRecord, folder: Path) -> None:
    """The record with the verdicts on what it holds by now, and its pages, into the run's folder."""
    record.verdict, record.gain_verdict = verdict(record), gain_verdict(record)
    record.save(folder / "record.json")
    write_pages(record, folder)


def write_pages(record: RunRecord, folder: Path) -> None:
    """report.md and report.html."""
    write_markdown(record, folder / "report.md")
    write_html(record, folder / "report.html")
