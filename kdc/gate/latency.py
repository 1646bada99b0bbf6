"""Rules on time: both artifacts are timed again, here, in common rounds. A stored number is never compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kdc import machine
from kdc.errors import KdcError
from kdc.gate.report import Result
from kdc.gate.rules import LatencyRule
from kdc.gate.side import Side
from kdc.measure.decision import LOOKS, Judgement, judge_in_looks
from kdc.measure.noise import NoiseFloor
from kdc.measure.rounds import Contender, Progress, Rounds, timed_rounds
from kdc.measure.settings import BenchConfig
from kdc.measure.workloads import Workload, spelled
from kdc.report import table

NOW, BASELINE = "now", "baseline"
NAME_WORKLOAD = "name a latency.workload.batch, and for texts a latency.workload.length"


@dataclass(frozen=True)
class Timer:
    """What timing needs besides the artifacts: the noise known of this machine, plugins, and where to show progress."""

    noise: NoiseFloor | None = None
    plugins: Sequence[str] = ()
    progress: Progress = lambda done, total, now: None
    notify: Callable[[str], None] = print


def latency_results(rule: LatencyRule, candidate: Side, baseline: Side, timer: Timer) -> list[Result]:
    """The limits of a rule on time, in as many rounds as they need; nothing is timed that would settle nothing."""
    workload = _workload(rule, candidate)
    results, sides = [], {}
    if rule.max_slowdown is not None:
        settled = _settled(rule, candidate, baseline, workload, timer.noise)
        if settled is None:
            sides[BASELINE] = baseline
            if timer.noise and (other := _elsewhere(timer.noise, candidate, workload)):
                timer.notify(f"the noise of this machine was measured{other}; again: kdc bench ARTIFACT --noise")
        else:
            results.append(settled)
    if sides or rule.max is not None:
        sides[NOW] = candidate
        contenders = {
            name: Contender(side.artifact, plugins=timer.plugins) for name, side in sides.items() if side.artifact
        }
        bench = BenchConfig.of_gate(
            batch=workload["batch"], length=workload.get("length", 1), threads=workload["threads"]
        )
        with timed_rounds(contenders, bench, progress=timer.progress, notify=timer.notify) as rounds:
            results += _timed(rule, workload, rounds, sides, timer.noise)
    return results


def _timed(
    rule: LatencyRule, workload: Workload, rounds: Rounds, sides: dict[str, Side], noise: NoiseFloor | None
) -> Iterator[Result]:
    at = spelled(workload)
    for name, side in sides.items():
        if rounds.workloads[name] != [workload]:
            said = "; ".join(rounds.notes[name]) or f"{at} is not what it runs"
            raise KdcError(f"{side.variant.name} of {side.place} cannot be timed: {said}", NAME_WORKLOAD)

    def medians(name: str, count: int) -> np.ndarray:
        if count > rounds.count:
            rounds.more(count - rounds.count)
        return rounds.medians(name, workload)[:count]

    if BASELINE in sides and rule.max_slowdown is not None:
        margin = max(rule.max_slowdown, (rule.floor or 0.0) / float(np.median(medians(BASELINE, LOOKS[0]))))
        if noise is not None and margin < noise.floor:
            yield _below_noise(_allowed(rule, margin), margin, noise, sides[NOW], workload)
        else:
            judged = judge_in_looks(lambda n: np.log(medians(NOW, n) / medians(BASELINE, n)), margin)
            before, now = (_ms(float(np.median(medians(name, rounds.count)))) for name in (BASELINE, NOW))
            yield _slowdown(judged, _allowed(rule, margin), before, now, f"at {at}", rounds.count)
    if (limit := rule.max) is not None:
        judged = judge_in_looks(lambda n: np.log(medians(NOW, n) / limit), 0.0)
        now, low, high = (_ms(limit * (1 + over)) for over in (judged.estimate, judged.low, judged.high))
        yield Result(
            rule="latency.max",
            limit=_ms(limit),
            now=f"{now} ({low} to {high})",
            outcome=judged.outcome,
            why=f"latency is {now} at {at} (95% bounds {low} to {high}), at most {_ms(limit)} is wanted",
            estimate=judged.estimate,
            low=judged.low,
            high=judged.high,
        )


def _slowdown(judged: Judgement, allowed: str, before: str, now: str, at: str, rounds: int) -> Result:
    bounds = f"{judged.low:+.1%} to {judged.high:+.1%}"
    return Result(
        rule="latency.max_slowdown",
        limit=allowed,
        baseline=before,
        now=now,
        change=f"{judged.estimate:+.1%} ({bounds})",
        outcome=judged.outcome,
        why=(
            f"latency is {abs(judged.estimate):.1%} {'higher' if judged.estimate > 0 else 'lower'}, {before} to "
            f"{now} {at} (95% bounds {bounds}, {rounds} rounds); {allowed} is allowed"
        ),
        estimate=judged.estimate,
        low=judged.low,
        high=judged.high,
    )


def _settled(
    rule: LatencyRule, candidate: Side, baseline: Side, workload: Workload, noise: NoiseFloor | None
) -> Result | None:
    """What is clear of the slowdown without timing: no baseline to time, the same files, a margin below the noise."""
    assert rule.max_slowdown is not None
    before, now = _recorded(baseline, workload), _recorded(candidate, workload)
    limit = f"{rule.max_slowdown:.1%}"
    result = Result(
        rule="latency.max_slowdown",
        limit=f"{limit} or {rule.floor:g} ms" if rule.floor else limit,
        baseline=f"{_ms(before)} (recorded)" if before else "",
        now=f"{_ms(now)} (recorded)" if now else "",
        outcome="informational",
        why="",
    )
    if reason := _incomparable(baseline):
        return result.model_copy(update={"why": f"latency is not compared: {reason}"})
    if candidate.sha256 == baseline.sha256:
        return result.model_copy(update={"outcome": "pass", "why": "latency: the files are the same", "estimate": 0.0})
    if noise is not None and max(rule.max_slowdown, _at_most(rule.floor, before)) < noise.floor:
        return _below_noise(limit, rule.max_slowdown, noise, candidate, workload)
    return None


def _at_most(floor: float | None, recorded: float | None) -> float:
    """The largest share of the median that `floor` milliseconds may turn out to be, once that is timed again.

    A recorded median decides nothing; here it only saves minutes where half of it would change nothing either.
    """
    if floor is None:
        return 0.0
    return 2 * floor / recorded if recorded else math.inf


def _below_noise(limit: str, margin: float, noise: NoiseFloor, candidate: Side, workload: Workload) -> Result:
    seen = f"measured on {noise.measured_at[:10]}{_elsewhere(noise, candidate, workload)}"
    why = (
        f"latency: a margin of {margin:.1%} is below the noise of this machine, {noise.floor:.1%} ({seen}); "
        "ask for at least that, or quieten the machine and measure again"
    )
    return Result(rule="latency.max_slowdown", limit=limit, outcome="refused", why=why)


def _elsewhere(noise: NoiseFloor, candidate: Side, workload: Workload) -> str:
    """What the noise was measured with, if not with what is judged: its floor may be another there."""
    seen, judged = (
        f"{timed.runtime} {timed.precision} at {spelled(at, threads=True)}"
        for timed, at in ((noise, noise.workload), (candidate.variant, workload))
    )
    return f" with {seen}, not with {judged}" if seen != judged else ""


def _incomparable(baseline: Side) -> str:
    if baseline.folder is None:
        return f"{baseline.place} is a bare record, with nothing to time again"
    if baseline.artifact is None:
        return f"the artifact of {baseline.place} is gone"
    if baseline.machine != machine.fingerprint():
        return f"{baseline.place} is of another machine; save a baseline on this one"
    return ""


def _workload(rule: LatencyRule, candidate: Side) -> Workload:
    """What the rule names; what it leaves open is as in the first workload that the run timed."""
    first = next((each.workload for each in candidate.variant.latency if not each.workload.get("end_to_end")), {})
    named = rule.workload.model_dump(exclude_none=True)
    if not first and not named:
        raise KdcError(f"{candidate.variant.name} was not timed in its run", NAME_WORKLOAD)
    return {"batch": 1, "threads": machine.threads(), **first, **named}


def _recorded(side: Side, workload: Workload) -> float | None:
    """The median milliseconds that the record tells: to be shown, not to be compared."""
    latency = table.latency_at(side.variant, workload)
    return latency.p50_ms if latency else None


def _allowed(rule: LatencyRule, margin: float) -> str:
    """The margin as the part of the rule that it comes from."""
    return f"{margin:.1%}" if margin == rule.max_slowdown else f"{rule.floor:g} ms"


def _ms(value: float) -> str:
    return f"{table.significant(value)} ms"
