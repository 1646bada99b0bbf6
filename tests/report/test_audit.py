"""The loss audit in words and tables; a term that is not heard is named."""

import pytest
from rich.console import Console

from kdc.record import Audit, RunRecord, Stage, TermAudit
from kdc.report.audit import audit, unheard
from kdc.report.console import print_report
from kdc.report.html import run_page
from kdc.report.markdown import markdown
from tests.report.pages import check

WARNING = "student: the term hidden never has more than 0.8% of the gradient and teaches next to nothing"


def term(share: float, gradient_share: float, *, weighted: float = 1.0) -> TermAudit:
    return TermAudit(raw=2.0, weighted=weighted, share=share, gradient_norm=0.5, gradient_share=gradient_share)


@pytest.fixture
def audited(text_record: RunRecord) -> RunRecord:
    """A hidden-state term that is far too small, and one that its schedule switches off in the end."""
    train = text_record.stages[1].train
    assert train is not None
    train.audit = [
        Audit(step=0, terms={"kl": term(0.7, 0.6), "hidden": term(0.1, 0.0002), "hard": term(0.2, 0.3998)}),
        Audit(step=2105, terms={"kl": term(0.9, 0.992), "hidden": term(0.1, 0.008), "hard": term(0, 0, weighted=0)}),
    ]
    return text_record


def test_every_term_has_its_shares_at_every_audited_step(audited: RunRecord) -> None:
    found = audit(audited.stages[1])
    assert [getattr(cell, "detail", cell) for cell in found.head] == ["term", *["step 0"] * 2, *["step 2,105"] * 2]
    assert list(found.rows) == [
        ["kl", "70.0%", "60.0%", "90.0%", "99.2%"],
        ["hidden", "10.0%", "<0.1%", "10.0%", "0.8%"],
        ["hard", "20.0%", "40.0%", "0.0%", "0.0%"],
    ]


def test_a_term_that_never_has_a_hundredth_of_the_gradient_is_named_and_one_that_fades_out_is_not(
    audited: RunRecord,
) -> None:
    assert [line.partition(";")[0] for line in unheard(audited.stages[1])] == [WARNING]


def test_a_hundredth_is_enough_and_a_term_alone_is_always_heard(audited: RunRecord) -> None:
    train = audited.stages[1].train
    assert train is not None
    train.audit = [Audit(step=0, terms={"kl": term(0.5, 0.99), "hard": term(0.5, 0.01)})]
    assert unheard(audited.stages[1]) == []
    train.audit = [Audit(step=0, terms={"hard": term(1.0, 0.0)})]
    assert unheard(audited.stages[1]) == []
    train.audit = [Audit(step=0, terms={"kl": term(1.0, 1.0), "rkd": term(0.0, 0.0, weighted=0.0)})]
    assert len(unheard(audited.stages[1])) == 1, "what weighs nothing in spite of its weight"


def test_console_markdown_and_page_warn(audited: RunRecord) -> None:
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        print_report(audited, console)
    assert f"warning: {WARNING}" in " ".join(captured.get().split())
    assert f"- **warning**: {WARNING}" in markdown(audited)
    assert "| hidden | 10.0% | <0.1% | 10.0% | 0.8% |" in markdown(audited)
    assert WARNING in check(run_page(audited)).text


def test_without_an_audit_there_is_no_such_part(text_record: RunRecord) -> None:
    bare: Stage = text_record.stages[0]
    assert (list(audit(bare).rows), unheard(bare)) == ([], [])
    assert "## Terms of the loss" not in markdown(text_record)
    assert "all terms' gradients" not in run_page(text_record)
