"""From raw tables to examples: which column plays which role, which number a label has; every row is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdc.data.base import RawTable
from kdc.data.examples import INPUTS, Examples, Splits
from kdc.errors import KdcError, did_you_mean

WITHHELD = frozenset({"-1", ""})
"""Raw labels of a split whose labels nobody is meant to see."""


def to_splits(
    tables: Mapping[str, RawTable],
    columns: Mapping[str, str],
    labels: Sequence[str] | Mapping[str, str] | None,
    *,
    needed: Sequence[str],
    keep: Sequence[str] = (),
) -> tuple[Splits, list[str]]:
    """Examples of every split that has labels, and notes on those that have none.

    `needed` are the task's columns; those to `keep` become extras where a split has them.
    """
    roles = tuple(dict.fromkeys((*INPUTS, *needed)))
    for role in columns:
        if role not in roles:
            raise KdcError(f"dataset.columns.{role}: there is no such role", did_you_mean(role, roles))
    parts = {split: _by_role(table, columns, roles, needed) for split, table in tables.items()}
    extras = {split: _extras(table, keep) for split, table in tables.items()}
    if "label" not in needed:
        names = tuple(dict.fromkeys(labels.values() if isinstance(labels, Mapping) else labels or ()))
        unlabelled = {split: _checked(part, tables[split]) for split, part in parts.items()}
        return {split: Examples(part, names, extras[split]) for split, part in unlabelled.items()}, []
    raw = {split: _strings(part.pop("label")) for split, part in parts.items()}
    names, numbers = _label_set(labels, raw["train"])
    splits: Splits = {}
    notes = []
    for split, table in tables.items():
        if split != "train" and WITHHELD.issuperset(raw[split]) and WITHHELD.isdisjoint(numbers):
            notes.append(f"labels of {table.origin} are withheld: its {len(table):,} rows are not used")
            continue
        checked = _checked(parts[split], table)
        label = _numbered(raw[split], names, numbers, table, from_train=labels is None)
        splits[split] = Examples({**checked, "label": label}, names, extras[split])
    present = np.unique(splits["train"]["label"])
    if len(present) < 2:
        raise KdcError(
            f"{tables['train'].origin}: every row has the label '{names[present[0]]}'",
            "classes are learned from two or more; is dataset.columns.label the right column?",
        )
    return splits, notes


def _by_role(
    table: RawTable, columns: Mapping[str, str], roles: Sequence[str], needed: Sequence[str]
) -> dict[str, Any]:
    """The columns that play a role; an unmapped role is played by the column of its own name."""
    found = {role: columns.get(role, role) for role in roles if role in columns or role in table.columns}
    missing = [role for role, column in found.items() if column not in table.columns]
    missing += [role for role in needed if role not in found]
    if missing:
        role = missing[0]
        column = columns.get(role, role)
        raise KdcError(
            f"{table.origin}: there is no column '{column}' among {', '.join(table.columns)}",
            f"dataset.columns.{role}=COLUMN names it; {did_you_mean(column, table.columns)}",
        )
    return {role: table.columns[column] for role, column in found.items()}


def _extras(table: RawTable, keep: Sequence[str]) -> dict[str, list[str]]:
    return {name: _strings(table.columns[name]) for name in keep if name in table.columns}


def _strings(column: Sequence[Any] | np.ndarray) -> list[str]:
    values = column.tolist() if isinstance(column, np.ndarray) else column
    return ["" if value is None else str(value).strip() for value in values]


def _label_set(
    labels: Sequence[str] | Mapping[str, str] | None, train: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The names in order, and the number of every raw value. A name also stands for itself."""
    if labels is None:
        found = set(train) - {""}
        numeric = all(key.removeprefix("-").isdecimal() for key in found)
        labels = sorted(found, key=lambda key: (int(key), key)) if numeric else sorted(found)
    names = tuple(dict.fromkeys(labels.values() if isinstance(labels, Mapping) else labels))
    numbers = {name: number for number, name in enumerate(names)}
    if isinstance(labels, Mapping):
        numbers |= {key: names.index(name) for key, name in labels.items()}
    return names, numbers


def _numbered(
    raw: Sequence[str], names: Sequence[str], numbers: Mapping[str, int], table: RawTable, *, from_train: bool
) -> np.ndarray:
    try:
        return np.array([numbers[key] for key in raw], dtype=np.int64)
    except KeyError:
        row = next(i for i, key in enumerate(raw) if key not in numbers)
        if raw[row] == "":
            raise KdcError(f"{table.place(row)}: there is no label", "label the row or drop it") from None
        known = ", ".join(names) if len(names) <= 12 else f"{len(names)} known ones"
        raise KdcError(
            f"{table.place(row)}: label '{raw[row]}' is none of {known}",
            "no row of train has it" if from_train else "dataset.labels lists the names, or maps raw values to them",
        ) from None


def _checked(part: Mapping[str, Any], table: RawTable) -> dict[str, Any]:
    return {
        role: _texts(column, role, table) if role in ("text", "text_pair") else column for role, column in part.items()
    }


def _texts(column: Sequence[Any], role: str, table: RawTable) -> list[str]:
    texts = ["" if value is None else value if isinstance(value, str) else str(value) for value in column]
    for row, text in enumerate(texts):
        if not text or text.isspace():
            raise KdcError(f"{table.place(row)}: the {role} is empty", "fill the row or drop it")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        row = next(i for i, text in enumerate(texts) if any("\ud800" <= c <= "\udfff" for c in text))
        raise KdcError(
            f"{table.place(row)}: the {role} holds half a surrogate pair", "write it as valid Unicode"
        ) from None
    return texts
