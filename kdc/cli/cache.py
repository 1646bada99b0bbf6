"""`kdc cache`: list, size up, prune and verify the store of finished stages."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from pathlib import Path

from kdc.store import Entry, Store, default_root

SUMMARY = "list, size up, prune and verify the store of finished stages"
EXAMPLES = """examples:
  kdc cache list
  kdc cache prune                      what was not used for 30 days, and leftovers of killed runs
  kdc cache prune --older-than 7
  kdc cache prune --max-size 5GB       the least recently used, until the rest fits
  kdc cache prune --all
  kdc cache verify                     read every file and compare its checksum; exit code 1 if one is damaged

Do not prune while a run is at work: it may be reading a stage.
"""
PRUNE = """Delete stages.

models/ of a run holds links into the store, which lead nowhere once their stages are deleted; all else of a run stays.
"""
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.epilog = EXAMPLES
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--cache-dir", type=Path, help="the store (default: KDC_CACHE or ~/.cache/kdc)")
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|size|prune|verify")
    for name, summary in (
        ("list", "what the store holds, most recently used first"),
        ("size", "its size, stage by stage"),
        ("verify", "read every file and compare its checksum"),
    ):
        actions.add_parser(name, parents=[common], help=summary, description=summary)
    prune = actions.add_parser("prune", parents=[common], help="delete stages", description=PRUNE)
    what = prune.add_mutually_exclusive_group()
    what.add_argument("--older-than", type=float, metavar="DAYS", help="not used for so many days (default: 30)")
    what.add_argument("--max-size", type=_bytes, metavar="SIZE", help="until the rest is no larger, e.g. 5GB")
    what.add_argument("--all", action="store_true", help="everything")


def execute(args: argparse.Namespace) -> int:
    store = Store(args.cache_dir or default_root())
    if args.action == "list":
        _list(store)
    elif args.action == "size":
        _size(store)
    elif args.action == "prune":
        _prune(store, args)
    else:
        return _verify(store)
    return 0


def _list(store: Store) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", "key", "size", "created", "last used", "", box=None, header_style="bold")
    for entry in reversed(store.entries()):
        state = "unfinished" if entry.unfinished else ""
        table.add_row(
            entry.name, entry.key[:8], readable(entry.bytes), _ago(entry.created), _ago(entry.last_used), state
        )
    Console(highlight=False).print(table)
    print(_summary(store.entries(), store))


def _size(store: Store) -> None:
    entries = store.entries()
    for name in sorted({entry.name for entry in entries}):
        of_name = [entry for entry in entries if entry.name == name]
        print(f"{readable(sum(entry.bytes for entry in of_name)):>10}  {name} ({len(of_name)})")
    print(_summary(entries, store))


def _prune(store: Store, args: argparse.Namespace) -> None:
    default = args.older_than is None and args.max_size is None and not args.all
    days = 30.0 if default else args.older_than
    removed = store.prune(older_than_days=days, max_bytes=args.max_size, everything=args.all)
    for entry in removed:
        print(f"deleted {entry.name} {entry.key[:8]} ({readable(entry.bytes)}, last used {_ago(entry.last_used)})")
    print(f"freed {readable(sum(entry.bytes for entry in removed))}; left: {_summary(store.entries(), store)}")


def _verify(store: Store) -> int:
    damaged = store.verify()
    for entry, damage in damaged:
        print(f"damaged: {entry.name} {entry.key[:8]}: {damage}")
    if damaged:
        print(f"{len(damaged)} damaged; the next run that needs one builds it again")
        return 1
    print(f"all whole: {_summary(store.entries(), store)}")
    return 0


def _summary(entries: Sequence[Entry], store: Store) -> str:
    count = sum(not entry.unfinished for entry in entries)
    return f"{count} stage{'s' * (count != 1)}, {readable(sum(entry.bytes for entry in entries))} in {store.root}"


def readable(count: float) -> str:
    """A size for people, in decimal units as disks are sold."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _ago(moment: float) -> str:
    seconds = time.time() - moment
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' * (count != 1)} ago"
    return "just now"


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{text}' is no size; write it as 500MB or 5GB")
    return int(float(match[1]) * UNITS[(match[2] or "").upper()])
