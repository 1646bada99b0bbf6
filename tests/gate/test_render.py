"""What a report says: its outcome and exit code, console, Markdown and JUnit."""

import io
from xml.etree import ElementTree

import pytest
from rich.console import Console

from kdc.gate.render import MARKER, junit, markdown, print_gate
from kdc.gate.report import GateReport, Outcome, Result


def report(*outcomes: Outcome) -> GateReport:
    results = [
        Result(
            rule=f"metric{i}.max_drop", limit="1.50 points", baseline="90.0%", now="87.0%", change="-3.00 points",
            outcome=outcome, why=f"reason {i} <of> a|b & \"c\"",
        )
        for i, outcome in enumerate(outcomes)
    ]  # fmt: skip
    return GateReport(run="outputs/new", variant="student", baseline="old", against="student", results=results)


@pytest.mark.parametrize(
    ("outcomes", "outcome", "code", "strict"),
    [
        (["pass", "pass"], "pass", 0, 0),
        (["pass", "informational"], "pass", 0, 4),
        (["pass", "inconclusive"], "inconclusive", 0, 4),
        (["informational"], "informational", 0, 4),
        (["inconclusive", "refused"], "refused", 2, 2),
        (["refused", "fail", "pass"], "fail", 3, 3),
    ],
)
def test_the_worst_rule_decides(outcomes: list[Outcome], outcome: Outcome, code: int, strict: int) -> None:
    found = report(*outcomes)
    assert found.outcome == outcome
    assert (found.exit_code(strict=False), found.exit_code(strict=True)) == (code, strict)


def test_the_verdict_gives_the_reasons_that_matter() -> None:
    assert report("pass", "pass").verdict == "The gate passes (student)."
    assert report("pass", "fail").verdict == 'The gate fails (student): reason 1 <of> a|b & "c".'
    assert report("pass", "informational").verdict == 'The gate passes (student): reason 1 <of> a|b & "c".'
    renamed = report("inconclusive").model_copy(update={"against": "student+int8"})
    assert renamed.verdict.startswith("The gate is inconclusive (student against student+int8): reason 0")


def test_console() -> None:
    console = Console(file=io.StringIO(), width=120)
    print_gate(report("pass", "fail"), console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0].split() == ["rule", "baseline", "now", "change", "allowed", "outcome"]
    assert lines[2].split() == ["metric0.max_drop", "90.0%", "87.0%", "-3.00", "points", "1.50", "points", "pass"]
    assert lines[-1].startswith("The gate fails (student): reason 1")


def test_markdown_begins_with_the_marker() -> None:
    text = markdown(report("pass", "fail"))
    assert text.startswith(f"{MARKER}\n### ❌ kdc gate: fail\n")
    assert "| metric1.max_drop | 90.0% | 87.0% | -3.00 points | 1.50 points | fail |" in text


def test_junit() -> None:
    suite = ElementTree.fromstring(junit(report("pass", "fail", "inconclusive", "informational", "refused")))[0]
    counts = [suite.attrib[name] for name in ("tests", "failures", "errors", "skipped")]
    assert counts == ["5", "1", "1", "2"]
    kinds = [[child.tag for child in case] for case in suite]
    assert kinds == [[], ["failure"], ["skipped"], ["skipped"], ["error"]]
    assert suite[1][0].attrib["message"] == 'reason 1 <of> a|b & "c"'
    assert suite[1].attrib == {"classname": "kdc.gate.student", "name": "metric1.max_drop"}
