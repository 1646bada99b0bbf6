"""The words after `kdc run`: quote what Hydra's grammar refuses, and check keys and choices before Hydra sees them.

Values are not checked here; `kdc.config` types them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdc.compose import GROUPS, LISTS, choices, quote, top_level_keys
from kdc.errors import KdcError, did_you_mean

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

# Quoted strings, structure, and everything between.
_TOKEN = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[][{},]|[^][{},'"]+""")


def prepare(words: Sequence[str], *, sweep: bool = False, extra: Path | None = None) -> list[str]:
    """Overrides that Hydra will read as the user meant them, or one `KdcError` with every problem among them."""
    problems: list[str] = []
    ready: list[Override] = []
    for word in words:
        try:
            ready.append(_parse(_readable(word)))
        except KdcError as error:
            problems.append(str(error))
    problems += [problem for override in ready for problem in _check(override, sweep, extra)]
    problems += _repeated(ready)
    if problems:
        raise KdcError("\n  ".join([f"{len(problems)} problems:", *problems]) if len(problems) > 1 else problems[0])
    return [str(override.input_line) for override in ready]


def _readable(word: str) -> str:
    """The word itself where Hydra can read it, else with as little of its value quoted as makes it readable."""
    key, equals, value = word.partition("=")
    if not equals and not word.startswith("~"):
        hint = f"write {key}=CHOICE" if key in GROUPS else "overrides look like train.epochs=2"
        raise KdcError(f"'{word}' is not key=value", hint)
    for candidate in (word, f"{key}={_quote_parts(value)}", f"{key}={quote(value)}"):
        if _parses(candidate):
            return candidate
    raise KdcError(f"cannot read '{word}'", "overrides look like train.epochs=2")


def _quote_parts(value: str) -> str:
    """Quote the unreadable elements of a list, a mapping or a sweep; their structure stays."""
    tokens = _TOKEN.findall(value)
    if "".join(tokens) != value:
        return quote(value)
    depth, parts = 0, []
    for token in tokens:
        depth += {"{": 1, "}": -1}.get(token, 0)
        name, colon, inner = token.partition(":") if depth else ("", "", token)
        text = inner.strip()
        parts.append(token if token in "[]{}," or _parses(f"key={text}") else f"{name}{colon}{quote(text)}")
    return "".join(parts)


def _parse(word: str) -> Override:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(word)


def _parses(word: str) -> bool:
    from hydra.errors import HydraException

    try:
        _parse(word)
    except HydraException:
        return False
    return True


def _check(override: Override, sweep: bool, extra: Path | None) -> Iterator[str]:
    """Problems of one override: its first word, its choices, a list where one is meant, a sweep without `-m`."""
    key = override.key_or_group
    first = re.split(r"[./]", key)[0]
    if first == "hydra":
        return
    if first not in (known := [*top_level_keys(), "experiment"]):
        yield f"{key}: no such key; {did_you_mean(first, known)}"
    elif override.is_sweep_override() and not sweep:
        value = override.get_value_string()
        meant = f"{key}='[{value}]'" if key in LISTS else f"{key}=\"'{value}'\""
        yield f"{key}: several values make a sweep; add -m, or write {meant} for one run"
    elif key in GROUPS:
        if override.is_delete():
            remedy = f"write {key}=none" if "none" in choices(key) else f"choose one of `kdc list {key}`"
            yield f"~{key}: a group cannot be deleted; {remedy}"
        else:
            yield from _check_choices(key, _elements(override), extra)


def _elements(override: Override) -> list[Any]:
    """The value, or every value of a sweep."""
    if not override.is_sweep_override():
        return [override.value()]
    return [override._convert_value(element) for element in override.sweep_iterator()]


def _check_choices(group: str, values: Sequence[Any], extra: Path | None) -> Iterator[str]:
    known = choices(group, extra)
    for value in values:
        if value is None:
            if group != "experiment" or len(values) > 1:
                yield f"{group}=null: not a choice; " + (f"write {group}=none" if "none" in known else "leave it out")
            continue
        if isinstance(value, list) and group not in LISTS:
            yield f"{group}: takes one choice, not a list (got {value}); to try several: -m {group}=" + ",".join(
                map(str, value)
            )
            continue
        names = [str(name) for name in (value if isinstance(value, list) else [value])]
        for name in dict.fromkeys(names):
            if name not in known:
                yield f"{group}={name}: no such choice; {did_you_mean(name, known)}"
            elif names.count(name) > 1:
                yield (
                    f"{group}: '{name}' stands twice; a second one needs a key of its own in a file of yours "
                    f"({name}_again: {{name: {name}, ...}})"
                )


def _repeated(overrides: Sequence[Override]) -> Iterator[str]:
    given: dict[str, list[Override]] = {}
    for override in overrides:
        given.setdefault(override.key_or_group, []).append(override)
    for key, own in given.items():
        # `~key +key=...` gives a mapping anew, which `key=...` would merge with the one that is there
        anew = len(own) == 2 and own[0].is_delete() and own[1].is_add()
        if len(own) > 1 and not anew:
            lines = ", ".join(str(override.input_line) for override in own)
            yield f"{key}: given {len(own)} times ({lines}); keep one"
