"""A gate's report as a table on the console, as Markdown for the summary of a CI job, and as JUnit XML."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

from kdc.gate.report import GateReport, Outcome, Result
from kdc.report.console import plain_table
from kdc.report.markdown import grid

if TYPE_CHECKING:
    from rich.console import Console

MARKER = "<!-- kdc-gate -->"
"""Begins the Markdown, so that a workflow finds its own comment again and updates it."""
HEADERS = ("rule", "baseline", "now", "change", "allowed", "outcome")
_STYLES: dict[Outcome, str] = {"pass": "green", "fail": "bold red", "refused": "red", "inconclusive": "yellow"}
_SIGNS: dict[Outcome, str] = {"pass": "✅", "fail": "❌", "refused": "❌", "inconclusive": "❔", "informational": "ℹ️"}
_JUNIT: dict[Outcome, str] = {
    "fail": "failure",
    "refused": "error",
    "inconclusive": "skipped",
    "informational": "skipped",
}


def print_gate(report: GateReport, console: Console) -> None:
    from rich.text import Text

    words = (0, len(HEADERS) - 1)
    table = plain_table(HEADERS, left=words)
    for number in words:
        table.columns[number].no_wrap = True
    for result in report.results:
        *cells, outcome = _cells(result)
        table.add_row(*map(Text, cells), Text(outcome, style=_STYLES.get(result.outcome, "dim")))
    console.print(table)
    console.print(Text(report.verdict, style="bold red" if report.exit_code(strict=False) else "bold"))


def markdown(report: GateReport) -> str:
    """No row of anybody's data stands in it."""
    head = f"{MARKER}\n### {_SIGNS[report.outcome]} kdc gate: {report.outcome}"
    table = grid(list(HEADERS), [_cells(result) for result in report.results])
    return "\n\n".join([head, report.verdict, table, f"`{report.run}` against `{report.baseline}`"]) + "\n"


def junit(report: GateReport) -> str:
    """A test case a limit, in the schema that Jenkins, GitLab and GitHub's test reporters read."""
    counts = dict.fromkeys(("failure", "error", "skipped"), 0)
    suite = ElementTree.Element("testsuite", name="kdc gate")
    for result in report.results:
        case = ElementTree.SubElement(suite, "testcase", classname=f"kdc.gate.{report.variant}", name=result.rule)
        if kind := _JUNIT.get(result.outcome):
            counts[kind] += 1
            ElementTree.SubElement(case, kind, message=result.why).text = f"{result.outcome}: {result.why}"
    suite.attrib |= {
        "tests": str(len(report.results)),
        "failures": str(counts["failure"]),
        "errors": str(counts["error"]),
        "skipped": str(counts["skipped"]),
    }
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _cells(result: Result) -> list[str]:
    return [result.rule, result.baseline, result.now, result.change, result.limit, result.outcome]
