"""Local table files: csv, tsv, json, jsonl, parquet, or a text a line."""

import codecs
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from kdc.data.base import SOURCES, Raw, RawTable, Source, find
from kdc.data.formats import Format, read_table
from kdc.errors import KdcError

Paths = str | list[str] | dict[str, str]
"""A file, files to read one after the other, or label -> file where a file holds the rows of one label."""


def _known_encoding(name: str) -> str:
    try:
        codecs.lookup(name)
    except LookupError:
        raise ValueError(f"Python knows no encoding '{name}'; common ones: utf-8, latin-1, cp1252, utf-16") from None
    return name


@SOURCES.register("files")
class Files(Source):
    """Columns as the files name them; `text` for text files, and `label` where `Paths` gives it.

    `format` says what an extension does not. `names` are the columns of delimited files without a header line.
    `quoting: none` takes quotes for themselves. A byte order mark is dropped.
    """

    train: Paths | None = None
    validation: Paths | None = None
    test: Paths | None = None
    format: Format | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    quoting: Literal["minimal", "none"] = "minimal"
    encoding: Annotated[str, AfterValidator(_known_encoding)] = "utf-8"
    names: Annotated[list[str], Field(min_length=1)] | None = None

    def load(self, data_dir: Path | None) -> Raw:
        if not self._by_split()["train"]:
            raise KdcError("dataset.files.train is not set", "dataset.files.train=FILE names the file to train on")
        return Raw(
            {
                split: self._table(f"dataset.files.{split}", files, data_dir)
                for split, files in self._by_split().items()
                if files
            }
        )

    def paths(self) -> dict[str, str]:
        return {
            f"dataset.files.{split}" + (f"[{i}]" if i else ""): path
            for split, files in self._by_split().items()
            for i, (path, _) in enumerate(files)
        }

    def _by_split(self) -> dict[str, list[tuple[str, str | None]]]:
        """(path, label of all its rows) of every file, split by split."""
        return {split: _listed(getattr(self, split)) for split in ("train", "validation", "test")}

    def _table(self, key: str, files: list[tuple[str, str | None]], data_dir: Path | None) -> RawTable:
        columns: dict[str, list[object]] = {}
        origins: list[tuple[str, int]] = []
        for name, label in files:
            path = find(name, data_dir, key=key)
            if not path.is_file():
                raise KdcError(f"{key}: {path} is a folder", "name the files in it")
            part = dict(read_table(path, self))
            rows = len(next(iter(part.values())))
            if label is not None:
                part["label"] = [label] * rows
            if origins and part.keys() != columns.keys():
                raise KdcError(
                    f"{path} has other columns ({', '.join(part)}) than {origins[0][0]} ({', '.join(columns)})"
                )
            for column, values in part.items():
                columns.setdefault(column, []).extend(values)
            origins.append((str(path), rows))
        return RawTable(columns, tuple(origins))


def _listed(paths: Paths | None) -> list[tuple[str, str | None]]:
    if paths is None:
        return []
    if isinstance(paths, dict):
        return [(path, label) for label, path in paths.items()]
    return [(path, None) for path in ([paths] if isinstance(paths, str) else paths)]
