"""What pydantic refuses, in kdc's words: the dotted key as the YAML has it, and one clause that says what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from kdc.errors import did_you_mean

QUOTED = r"'([^']*)'"


def problems_of(error: ValidationError, model: type[BaseModel], raw: Any, where: str) -> Iterator[tuple[str, str]]:
    """Dotted key and message of each problem; the members of a union that all refused one value speak as one."""
    found: dict[str, list[str]] = {}
    for detail in error.errors(include_url=False):
        keys = _keys(detail["loc"], raw, detail["type"])
        dotted = [*where.split("."), *keys] if where else keys
        messages = found.setdefault(".".join(dotted), [])
        if detail["type"] == "extra_forbidden":
            owner = f" of {dotted[-2]}" if len(dotted) > 1 else ""
            message = f"no such key{owner}; {did_you_mean(keys[-1], _fields(model, keys[:-1], raw))}"
        else:
            message = _message(detail)
        if message not in messages:
            messages.append(message)
    for key, messages in found.items():
        yield key, ", or ".join(messages)


def _keys(loc: Sequence[str | int], raw: Any, kind: str) -> list[str]:
    """The parts of a pydantic location that are keys of the data; the others name the member of a union."""
    keys: list[str] = []
    for number, part in enumerate(loc, start=1):
        inside = (isinstance(raw, Mapping) and part in raw) or (isinstance(raw, list) and isinstance(part, int))
        if inside or (kind == "missing" and number == len(loc)):
            keys.append(str(part))
        if inside:
            raw = raw[part]
    return keys


def _message(detail: ErrorDetails) -> str:
    kind, message, value = detail["type"], detail["msg"], detail["input"]
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind == "union_tag_not_found":
        return f"must name its {detail['ctx']['discriminator']} (got {value!r})"
    if kind == "union_tag_invalid":
        family, tag = detail["ctx"]["discriminator"].strip("'"), detail["ctx"]["tag"]
        return f"no {family} is called '{tag}'; {did_you_mean(tag, re.findall(QUOTED, detail['ctx']['expected_tags']))}"
    if kind in ("model_type", "model_attributes_type"):
        message = "must be settings (`key: value`)"
    hint = did_you_mean(str(value), re.findall(QUOTED, message)) if kind == "literal_error" else ""
    return f"{message[0].lower()}{message[1:]} (got {value!r})" + (f", {hint}" if hint.startswith("did") else "")


def _fields(model: type[BaseModel], keys: Sequence[str], raw: Any) -> list[str]:
    """The field names of the model that stands at `keys` within `model`; of a union, the member that `raw` names."""
    for key in keys:
        raw = raw[int(key) if isinstance(raw, list) else key]
        if (field := model.model_fields.get(key)) is not None:
            inner = [part for part in _parts(field.annotation) if issubclass(part, BaseModel)]
            if not inner:
                return []
            model = next((part for part in inner if _names(raw, part)), inner[0])
    return list(model.model_fields)


def _names(raw: Any, model: type[BaseModel]) -> bool:
    """Whether one of these settings is a literal that the model alone has: `schedule: linear`."""
    fields = model.model_fields.items()
    return isinstance(raw, Mapping) and any(raw.get(name) in get_args(field.annotation) for name, field in fields)


def _parts(annotation: Any) -> Iterator[type]:
    """Every class in an annotation, however nested: `dict[str, A | None]` holds str, A and NoneType."""
    if isinstance(annotation, type):
        yield annotation
    for argument in get_args(annotation):
        yield from _parts(argument)
