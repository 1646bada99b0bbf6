"""`kdc gate`: hold a run against a baseline, by rules; or save the baseline."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from kdc.errors import KdcError
from kdc.files import check_writable, write_atomically

if TYPE_CHECKING:
    from kdc.gate.report import GateReport
    from kdc.gate.side import Side

SUMMARY = "hold a run against a baseline: pass, fail or inconclusive"
EPILOG = """examples:
  kdc gate outputs/latest --save-baseline baseline          record, predictions and artifact of what ships
  kdc gate outputs/latest --baseline baseline               by the default rules
  kdc gate outputs/latest --baseline baseline primary.max_drop=1pp latency=null
  kdc gate outputs/latest --baseline outputs/OTHER --rules mine.yaml --junit gate.xml

rules:
  accuracy: {max_drop: 0.5pp, min: 88%}                     any metric; `primary` is the run's own
  latency: {max_slowdown: 5%, floor: 0.05ms, max: 3ms}      both are timed again, here
  bytes: {max_growth: 1%, max: 20MB}
  memory: {max_growth: 5%}

exit codes: 0 passed, 3 a rule failed, 4 a rule was not decided (--strict), 2 what was asked cannot be judged
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("overrides", nargs="*", metavar="RULE.KEY=VALUE", help="changes to the rules")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--baseline", type=Path, metavar="PATH", help="a run, a saved baseline, or a bare record.json")
    what.add_argument("--save-baseline", type=Path, metavar="DIR", help="save RUN's variant as a baseline")
    parser.add_argument("--variant", metavar="NAME", help="what is gated (what RUN ships)")
    parser.add_argument("--rules", metavar="RULES", help="default, untimed or a YAML file (default)")
    parser.add_argument("--strict", action="store_true", help="exit 4 unless every rule was decided")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the summary that a CI job shows")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found as JSON")
    parser.add_argument("--plugin", action="append", default=[], metavar="MODULE", help="a module that the run needs")
    parser.epilog = EPILOG


def execute(args: argparse.Namespace) -> int:
    from kdc.gate.bundle import save_bundle

    if args.save_baseline is None:
        return _gate(args)
    candidate = _candidate(args)
    options = {f"--{name}": getattr(args, name) for name in ("rules", "strict", "junit", "markdown", "json")}
    if unused := [*(f"'{word}'" for word in args.overrides), *(option for option, given in options.items() if given)]:
        raise KdcError(f"{', '.join(unused)}: a baseline is saved without rules", "give them with --baseline")
    save_bundle(candidate, args.save_baseline)
    print(f"{candidate.variant.name} of {args.run} is saved in {args.save_baseline}")
    return 0


def _candidate(args: argparse.Namespace, *, like: Path | None = None) -> Side:
    from kdc.gate.side import open_candidate
    from kdc.registry import load_plugins

    load_plugins(args.plugin)
    return open_candidate(args.run, args.variant, like=like)


def _gate(args: argparse.Namespace) -> int:
    from rich.console import Console

    from kdc.gate.render import print_gate
    from kdc.gate.report import STRICT, GateReport, Result

    summary = Path(os.environ["GITHUB_STEP_SUMMARY"]) if os.environ.get("GITHUB_STEP_SUMMARY") else None
    for path in (args.junit, args.markdown, args.json, summary):
        if path is not None:
            check_writable(path)  # before minutes of timing, not after
    try:
        report = _judged(args)
    except KdcError as error:  # a CI job that shows these files must not show those of the last time, or none
        run, baseline = str(args.run), str(args.baseline)
        told = Result(rule="input", limit="", outcome="refused", why=str(error))
        _write(args, summary, GateReport(run=run, variant=run, baseline=baseline, against=run, results=[told]))
        raise
    print_gate(report, Console(highlight=False))
    _write(args, summary, report)
    code = report.exit_code(strict=args.strict)
    if code == STRICT:
        print(f"--strict: not decided: {', '.join(result.rule for result in report.undecided)}")
    return code


def _judged(args: argparse.Namespace) -> GateReport:
    from kdc.gate.gate import run_gate
    from kdc.gate.latency import Timer
    from kdc.gate.rules import DEFAULT, load_rules
    from kdc.gate.side import open_baseline
    from kdc.measure.noise import known_floor
    from kdc.screen import Screen
    from kdc.store import default_root

    candidate = _candidate(args, like=args.baseline)
    rules = load_rules(args.rules or DEFAULT, args.overrides)
    baseline = open_baseline(args.baseline, candidate)
    screen = Screen()
    with screen.bar("time both artifacts", "processes") as advance:
        timer = Timer(known_floor(default_root()), args.plugin, advance, screen.say)
        return run_gate(rules, candidate, baseline, timer)


def _write(args: argparse.Namespace, summary: Path | None, report: GateReport) -> None:
    from kdc.gate.render import junit, markdown

    if args.junit is not None:
        write_atomically(args.junit, junit(report))
    if args.markdown is not None:
        write_atomically(args.markdown, markdown(report))
    if args.json is not None:
        write_atomically(args.json, report.model_dump_json(indent=2, by_alias=True) + "\n")
    if summary is not None:
        with summary.open("a", encoding="utf-8") as file:
            file.write(markdown(report))
