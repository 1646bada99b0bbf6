"""`kdc list`: the groups, what there is to choose in each, and what is taken when nothing is chosen."""

from __future__ import annotations

import argparse
from pathlib import Path

from kdc.compose import GROUPS, LISTED, LISTS, check_extra, choices, defaults

SUMMARY = "show what there is to choose"
ABOUT = {
    "teacher": "the model to learn from",
    "student": "the model that learns",
    "loss": "what the student is trained to match",
    "compress": "compression passes, in order",
    "dataset": "data and the task to learn on it",
    "runtime": "what executes the files that ship",
    "train": "how models are trained",
    "bench": "what is timed, and how long",
    "experiment": "a whole run; the command line wins over it",
    "gate": "rules that a run is held to (chosen by `kdc gate --rules`)",
}
EPILOG = """examples:
  kdc list                      every group
  kdc list student              one group
  kdc list --config-dir mine    with choices of your own
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("group", nargs="?", metavar="GROUP", help=", ".join(LISTED))
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="choices of your own, by group folder")
    parser.epilog = EPILOG


def execute(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from kdc.gate.rules import DEFAULT

    if args.config_dir is not None:
        check_extra(args.config_dir)
    console, taken = Console(), {**defaults(), "gate": [DEFAULT]}
    for group in LISTED if args.group is None else [args.group]:
        found = choices(group, args.config_dir if group in GROUPS else None)
        several = f" (several: '{group}=[A,B]')" if group in LISTS else ""
        console.print(Text(group, style="bold"), Text(f"{ABOUT[group]}{several}", style="dim"))
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column()
        for name, description in found.items():
            default = name in taken.get(group, [])
            table.add_row(
                Text(f"{'*' if default else ' '} {name}", style="green" if default else ""), Text(description)
            )
        console.print(Padding(table, (0, 0, 1, 2)))
    how = "kdc gate --rules CHOICE" if args.group == "gate" else "kdc run GROUP=CHOICE"
    console.print(Text(f"* taken when nothing is chosen; choose with `{how}`", style="dim"))
    return 0


def plain_groups() -> str:
    """One line a group, for `kdc run --help`."""
    taken = defaults()
    lines = []
    for group in GROUPS:
        names = [f"{name}*" if name in taken.get(group, []) else name for name in choices(group)]
        lines.append(f"  {group:<12}{' '.join(names)}")
    return "\n".join(lines)
