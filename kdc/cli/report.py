"""`kdc report`: make the pages of a run or a sweep again from its records; nothing is measured."""

from __future__ import annotations

import argparse
from pathlib import Path

from kdc.errors import KdcError

SUMMARY = "make the report of a run or a sweep again"
EPILOG = """examples:
  kdc report outputs/latest                    report.md and report.html from record.json
  kdc report outputs/SWEEP                     leaderboard and Pareto front of all runs in a folder
  kdc report outputs/latest --output public    into another folder
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="RUN|SWEEP", help="a run's folder or record.json, or a sweep's")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the pages go (default: beside the records)")
    parser.epilog = EPILOG


def execute(args: argparse.Namespace) -> int:
    path: Path = args.path
    if not path.exists():
        raise KdcError(f"{path} does not exist", "name the folder of a run or of a sweep")
    target: Path = args.output or (path if path.is_dir() else path.parent)
    sweep = path.is_dir() and not (path / "record.json").exists()
    try:
        target.mkdir(parents=True, exist_ok=True)
        if sweep:
            _report_sweep(path, target)
        else:
            _report_run(path, target)
    except OSError as error:
        where = error.filename2 or error.filename or target
        raise KdcError(f"cannot write {where}: {error.strerror}", "choose another folder with --output") from error
    return 0


def _report_run(path: Path, target: Path) -> None:
    from rich.console import Console

    from kdc.record import RunRecord
    from kdc.report.console import print_report
    from kdc.report.pages import write_pages

    record = RunRecord.load(path)
    write_pages(record, target)
    print_report(record, Console(), report=target / "report.html")


def _report_sweep(path: Path, target: Path) -> None:
    from rich.console import Console

    from kdc.report.leaderboard import print_leaderboard, read_sweep
    from kdc.report.sweep import write_sweep_report

    records = read_sweep(path)
    write_sweep_report(path, records, output=target)
    print_leaderboard(records, Console(), report=target / "report.html")
