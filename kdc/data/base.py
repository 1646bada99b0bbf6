"""What a source is: it reads tables, split by split, and leaves their meaning (roles, labels, splits) to `load`."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from kdc.errors import KdcError, did_you_mean
from kdc.registry import Component, Registry


@dataclass(frozen=True)
class RawTable:
    """One split as it was found: columns of equal length by their own names, and where the rows came from.

    `origins` are (place, rows) in row order, so that a message can name the file and the row in it.
    """

    columns: Mapping[str, Sequence[Any] | np.ndarray]
    origins: tuple[tuple[str, int], ...]

    def __len__(self) -> int:
        return sum(rows for _, rows in self.origins)

    @property
    def origin(self) -> str:
        return " + ".join(place for place, _ in self.origins)

    def place(self, row: int) -> str:
        """`train.csv, row 3`: rows count from 1, a header line is none."""
        for place, rows in self.origins:
            if row < rows:
                return f"{place}, row {row + 1}"
            row -= rows
        raise IndexError(row)


@dataclass(frozen=True)
class Raw:
    """All tables of a source by split (`train` at least), and what a reader of the report should know about them."""

    tables: dict[str, RawTable]
    notes: list[str] = field(default_factory=list)


class Source(Component):
    """Where rows come from. `remote` sources may need a network; with `data_dir` set a local one is preferred.

    `columns` replaces entries of `dataset.columns` for this source, where it calls them otherwise.
    """

    remote: ClassVar[bool] = False
    columns: dict[str, str] = Field(default_factory=dict)

    @abstractmethod
    def load(self, data_dir: Path | None) -> Raw:
        """Read everything; relative paths are relative to `data_dir`, or to the current folder without it."""

    def paths(self) -> dict[str, str]:
        """The local files and folders it reads: dotted key -> path as configured."""
        return {}

    def identity(self, data_dir: Path | None) -> dict[str, Any] | None:
        """What tells this source's contents from any other's without parsing them; None where only loading tells."""
        return {"files": {key: hashes(path, data_dir, key=key) for key, path in self.paths().items()}}


SOURCES: Registry[Source] = Registry(
    "data source",
    [f"kdc.data.{name}" for name in ("digits", "files", "hub", "idx", "image_folder", "stdlib_docs")],
)


def find(path: str, data_dir: Path | None, *, key: str) -> Path:
    """The existing file or folder that `path`, the value of the configuration key `key`, stands for."""
    wanted = (data_dir or Path()).expanduser() / Path(path).expanduser()
    if wanted.exists():
        return wanted
    if data_dir is not None and not data_dir.expanduser().is_dir():
        raise KdcError(f"data_dir: there is no folder {data_dir}", "data_dir=FOLDER names the one that holds your data")
    hint = f"{key} is relative to data_dir, else to the current folder"
    if wanted.parent.is_dir() and (siblings := [p.name for p in wanted.parent.iterdir()]):
        suggestion = did_you_mean(wanted.name, siblings)
        hint = suggestion if suggestion.startswith("did") else hint
    raise KdcError(f"{key}: there is no file {wanted}", hint)


def hashes(path: str, data_dir: Path | None, *, key: str) -> dict[str, str]:
    """The hash of a file, or of all files of a folder by their places in it, that `path` stands for."""
    found = find(path, data_dir, key=key)
    files = sorted(p for p in found.rglob("*") if p.is_file()) if found.is_dir() else [found]
    return {str(file.relative_to(found)): sha256(file) for file in files}


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
