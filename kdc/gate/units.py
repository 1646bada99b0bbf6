"""Quantities of rules as people write them (`0.5pp`, `5%`, `0.05ms`, `20MB`), and nothing looser."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from kdc.errors import did_you_mean

PERCENT = {"%": 0.01}
POINTS = {"pp": 0.01, "": 1.0}
SCORES = {"%": 0.01, "": 1.0}
MILLISECONDS = {"us": 0.001, "µs": 0.001, "ms": 1.0, "s": 1000.0}
BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}

AUTO = "auto"
_NUMBER = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([^\d\s.]*)")


def parsed(units: Mapping[str, float], example: str) -> Callable[[Any], Any]:
    """A validator: `4 unit` -> 4 times what the unit stands for. `example` shows how it is written."""

    def parse(value: Any) -> Any:
        if value is None:
            return None
        match = _NUMBER.fullmatch(str(value).strip())
        if match is None or isinstance(value, bool):
            raise ValueError(f"no such quantity as {value!r}; write it like {example}")
        number, unit = match.groups()
        if unit in units:
            return float(number) * units[unit]
        if not unit:
            raise ValueError(f"{value} has no unit; write it like {example}")
        raise ValueError(f"'{unit}' is no unit for this; {did_you_mean(unit, filter(None, units))}")

    return parse


def _points_or_auto(value: Any) -> Any:
    return value if value == AUTO else parsed(POINTS, "0.5pp")(value)


Percent = Annotated[float | None, BeforeValidator(parsed(PERCENT, "5%"))]
Points = Annotated[float | str | None, BeforeValidator(_points_or_auto)]
"""A difference of a metric: percentage points of a share, else in the metric's own unit; `auto` by what changed."""
Score = Annotated[float | None, BeforeValidator(parsed(SCORES, "88%"))]
Milliseconds = Annotated[float | None, BeforeValidator(parsed(MILLISECONDS, "0.05ms"))]
Bytes = Annotated[float | None, BeforeValidator(parsed(BYTES, "20MB"))]
