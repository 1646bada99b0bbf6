"""`kdc compare`: runs side by side, from their records; nothing is measured."""

from __future__ import annotations

import argparse
from pathlib import Path

from kdc.errors import KdcError

SUMMARY = "show runs side by side"
EPILOG = """examples:
  kdc compare outputs/A outputs/B              settings that differ, quality on the same rows, size, latency
  kdc compare outputs/SWEEP/*/                 all runs of a sweep against its first

Differences are against the first run, with 95% intervals, where both kept predictions of the same rows.
`kdc bench` times their artifacts together; `kdc gate` decides whether one may replace the other.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder or record.json")
    parser.epilog = EPILOG


def execute(args: argparse.Namespace) -> int:
    if len(args.runs) < 2:
        raise KdcError("one run cannot be compared", "name at least two: kdc compare RUN RUN...")
    from rich.console import Console

    from kdc.compare import columns, print_comparison

    print_comparison(columns(args.runs), Console(highlight=False))
    return 0
