"""GateReport: what a gate found, rule by rule. Console, Markdown, JUnit and JSON are all made from it. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field, computed_field

Outcome = Literal["pass", "fail", "inconclusive", "informational", "refused"]
"""`informational`: told and not judged; `refused`: the margin asks for more than the data can show, or what was asked
is wrong."""

EXIT_CODES: dict[Outcome, int] = {"pass": 0, "fail": 3, "inconclusive": 0, "informational": 0, "refused": 2}
STRICT = 4


class Result(BaseModel):
    """One limit of one rule. Texts are ready to read; the numbers are fractions (0.05 is 5% or 5 points).

    `estimate` is how much worse the candidate is, `low` and `high` its one-sided 95% bounds, None where there are none.
    """

    rule: str
    """`accuracy.max_drop`"""
    limit: str
    baseline: str = ""
    now: str = ""
    change: str = ""
    outcome: Outcome
    why: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None


class GateReport(BaseModel):
    schema_: Literal["kdc.gate/1"] = Field(default="kdc.gate/1", alias="schema")
    run: str
    variant: str
    baseline: str
    against: str
    """The baseline's variant."""
    results: list[Result]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def outcome(self) -> Outcome:
        """That of the rule that matters most: a failed one, a refused, an inconclusive, then those that passed.

        Rules that are only informational matter where no other was judged.
        """
        found = {result.outcome for result in self.results}
        order: tuple[Outcome, ...] = ("fail", "refused", "inconclusive", "pass", "informational")
        return next(outcome for outcome in order if outcome in found)

    def exit_code(self, *, strict: bool) -> int:
        """`strict` wants every rule decided."""
        return EXIT_CODES[self.outcome] or (STRICT if strict and self.undecided else 0)

    @property
    def undecided(self) -> list[Result]:
        return [result for result in self.results if result.outcome in ("inconclusive", "informational")]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def verdict(self) -> str:
        """One sentence."""
        named = self.variant if self.variant == self.against else f"{self.variant} against {self.against}"
        head, telling = _VERDICTS[self.outcome]
        because = "; ".join(result.why for result in self.results if result.outcome in telling)
        return f"{head} ({named}){f': {because}' if because else ''}."


_VERDICTS: dict[Outcome, tuple[str, tuple[Outcome, ...]]] = {
    "fail": ("The gate fails", ("fail",)),
    "refused": ("The gate cannot be judged", ("refused",)),
    "inconclusive": ("The gate is inconclusive", ("inconclusive",)),
    "pass": ("The gate passes", ("informational",)),
    "informational": ("The gate judged nothing", ("informational",)),
}
"""How a verdict begins, and the outcomes of the rules whose reasons it gives."""
