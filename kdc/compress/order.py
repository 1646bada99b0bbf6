"""Which passes can follow which: orders that cannot work, told before anything is trained, and odd ones that can.

What a pass cannot follow it says itself (`Pass.cannot_follow`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import get_args

from kdc.compress.base import Family, Pass
from kdc.compress.quantizer import Quantizer

NATURAL = get_args(Family)


def impossible(steps: Mapping[str, Pass]) -> Iterator[str]:
    """What cannot work, and which order would."""
    earlier: dict[str, Pass] = {}
    for key, step in steps.items():
        for name, before in earlier.items():
            if reason := step.cannot_follow(before, name):
                yield f"compress: {key} {reason}; put {key} first"
        if step.edits_plan and not any(isinstance(before, Quantizer) for before in earlier.values()):
            yield f"compress: {key} changes what a quantizer planned; put one before it, e.g. compress='[int8,{key}]'"
        earlier[key] = step


def odd(steps: Mapping[str, Pass]) -> Iterator[str]:
    """What works and is seldom meant: it is done as it was asked for, and said."""
    latest = recovered = ""
    for key, step in steps.items():
        if step.family is None:
            continue
        place = NATURAL.index(step.family)
        if latest and place < NATURAL.index(steps[latest].family):
            yield f"compress: {key} comes after {latest}, as asked for; natural is {', '.join(NATURAL)}, quantize"
        else:
            latest = key
        if recovered and step.recovery is None:
            yield f"compress: nothing recovers what {key} changes: {recovered} has recovered before it"
        recovered = key if step.recovery is not None else recovered
