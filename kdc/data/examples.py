"""What a source yields and a task reads: columns of equal length with label names. No torch, no downloads."""

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

INPUTS = ("text", "text_pair", "image")
"""The columns that models read, whatever the task. Any other holds what they should answer."""

IGNORED = -100
"""The label of a row that has none (those of a transfer set), and of tokens that are padding."""


@dataclass(frozen=True)
class Examples:
    """Rows of one split, column by column.

    Columns that tasks know: `text` and `text_pair` (lists of str), `image` (uint8 `[rows, height, width, channels]`,
    or a list of such arrays when sizes differ), `label` (int64 `[rows]`, an index into `labels`, or `IGNORED`) and
    those that a task adds, such as a label a token. Rows of tasks without classes have no `label` column.

    `extras` are columns of the data under their own names, as text. No model reads them and no answer is in them, so
    ids and fingerprints know nothing of them: quality is told by their values.
    """

    columns: Mapping[str, Sequence[Any] | np.ndarray]
    labels: tuple[str, ...] = ()
    extras: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in [*self.columns.items(), *self.extras.items()]}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns differ in length: {lengths}")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    def __getitem__(self, column: str) -> Any:
        return self.columns[column]

    def select(self, indices: Sequence[int] | np.ndarray) -> "Examples":
        picked: dict[str, Any] = {}
        for name, column in self.columns.items():
            picked[name] = column[indices] if isinstance(column, np.ndarray) else [column[int(i)] for i in indices]
        extras = {name: [column[int(i)] for i in indices] for name, column in self.extras.items()}
        return Examples(picked, self.labels, extras)

    @property
    def inputs(self) -> list[str]:
        """The columns that a model reads."""
        return [name for name in INPUTS if name in self.columns]

    @cached_property
    def ids(self) -> list[str]:
        """A content hash a row over what a model reads (`INPUTS`), answers left out: 32 hex digits."""
        return [_hash_row([self.columns[name][i] for name in self.inputs]) for i in range(len(self))]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of contents, answers and order: two splits with equal fingerprints train equal models."""
        digest = hashlib.sha256("\0".join(self.labels).encode())
        for row in self.ids:
            digest.update(row.encode())
        for name in sorted(self.columns.keys() - set(INPUTS)):
            column = self.columns[name]
            if name == "label":
                digest.update(np.ascontiguousarray(column, dtype=np.int64).tobytes())
            else:
                digest.update(f"{name}\0{_hash_row(list(column))}".encode())
        return digest.hexdigest()


Splits = dict[str, Examples]
"""`train`, `validation`, `test`: all three are always there after `load`; `test` may have come from `train`."""


def unlabelled(inputs: Mapping[str, Sequence[Any] | np.ndarray], like: Examples) -> Examples:
    """Rows of these inputs whose classes, where rows `like` these have some, nobody knows."""
    rows = len(next(iter(inputs.values())))
    label = {"label": np.full(rows, IGNORED, dtype=np.int64)} if "label" in like else {}
    return Examples({**inputs, **label}, like.labels)


def joined(*parts: Examples) -> Examples:
    """The rows of all parts, which have the same columns, one after the other. Extras stay behind."""
    columns: dict[str, Any] = {}
    for name in parts[0].columns:
        pieces = [part[name] for part in parts]
        alike = all(isinstance(piece, np.ndarray) for piece in pieces) and len({p.shape[1:] for p in pieces}) == 1
        columns[name] = np.concatenate(pieces) if alike else [row for piece in pieces for row in piece]
    return Examples(columns, parts[0].labels)


def loose_ids(examples: Examples) -> list[str]:
    """`ids` to which only letters and digits of texts make a difference, whatever their case (and brackets' names).

    Collections write one sentence in many ways: spaces, quotes and brackets (`-lrb-` of treebanks) differ between them.
    """
    inputs = {name: examples[name] for name in examples.inputs}
    return Examples(
        {name: column if name == "image" else [_letters(text) for text in column] for name, column in inputs.items()}
    ).ids


def _letters(text: str) -> str:
    """Of a text without any, all that is no white space."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return re.sub(r"-[lr][rsc]b-|[\W_]", "", plain) or "".join(text.split())


def _hash_row(values: Sequence[Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        if isinstance(value, np.ndarray):
            digest.update(f"{value.shape}{value.dtype}".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        else:
            digest.update(str(value).encode())
        digest.update(b"\0")
    return digest.hexdigest()
