"""Readers of table files: one function a format, bytes in, columns out. Problems name file, row and cure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from kdc.errors import KdcError

if TYPE_CHECKING:
    from kdc.data.files import Files

Format = Literal["csv", "tsv", "json", "jsonl", "parquet", "text"]
Columns = dict[str, Sequence[Any]]

EXTENSIONS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".txt": "text",
}
DELIMITERS = {"csv": ",", "tsv": "\t"}
LONGEST_FIELD = 2**31 - 1


def read_table(path: Path, settings: Files) -> Columns:
    """All columns of one file, which has at least one row."""
    form = settings.format or EXTENSIONS.get(path.suffix.lower())
    if form is None:
        known = ", ".join(get_args(Format))
        raise KdcError(f"{path}: '{path.suffix}' says nothing of the format", f"set dataset.files.format to {known}")
    if path.stat().st_size == 0:
        raise KdcError(f"{path} is empty", "it must hold at least one row")
    if form == "parquet":
        columns = _parquet(path)
    else:
        text = _decode(path, settings.encoding)
        if form in ("csv", "tsv"):
            columns = _delimited(path, text, settings, delimiter=settings.delimiter or DELIMITERS[form])
        elif form == "text":
            columns = {"text": [line.strip() for line in io.StringIO(text, newline=None)]}
        else:
            columns = _records(path, _json(path, text) if form == "json" else _jsonl(path, text))
    if not any(len(column) for column in columns.values()):
        raise KdcError(f"{path} has no rows", "it must hold at least one")
    return columns


def _decode(path: Path, encoding: str) -> str:
    data = path.read_bytes()
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise KdcError(
            f"{path} is not {encoding}: byte {error.start} (line {line}) is 0x{data[error.start]:02x}",
            "name its encoding: dataset.files.encoding=latin-1",
        ) from None


def _delimited(path: Path, text: str, settings: Files, *, delimiter: str) -> Columns:
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if settings.quoting == "none" else csv.QUOTE_MINIMAL,
        # An opening quote that is never closed would swallow the rows after it without a word.
        strict=True,
    )
    try:
        rows = [row for row in reader if row]
    except csv.Error as error:
        raise KdcError(
            f"{path}, line {reader.line_num}: {error}", "if quotes mean themselves, set dataset.files.quoting=none"
        ) from None
    names = settings.names or (rows.pop(0) if rows else [])
    if len(set(names)) < len(names):
        raise KdcError(
            f"{path}: two columns share a name ({', '.join(names)})", "rename one, or set dataset.files.names"
        )
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            raise KdcError(
                f"{path}, row {number}: {len(row)} fields where {len(names)} are expected ({', '.join(names)})",
                "see dataset.files.delimiter and dataset.files.quoting",
            )
    return dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {}


def _json(path: Path, text: str) -> list[Any]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise KdcError(f"{path}, line {error.lineno}: {error.msg}", "a file of one object a line is jsonl") from None
    if not isinstance(rows, list):
        raise KdcError(f"{path} holds no list of objects", 'expected: [{"text": "...", "label": "..."}, ...]')
    return rows


def _jsonl(path: Path, text: str) -> list[Any]:
    rows = []
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise KdcError(f"{path}, line {number}: {error.msg}", "expected one JSON object a line") from None
    return rows


def _records(path: Path, rows: list[Any]) -> Columns:
    """Objects as columns; what an object lacks is None."""
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise KdcError(f"{path}, row {number} is no JSON object", 'expected: {"text": "...", "label": "..."}')
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _parquet(path: Path) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise KdcError(f"{path} is not readable as parquet: {str(error).splitlines()[0]}") from None
    return {name: table.column(name).to_pylist() for name in table.column_names}
