"""From a data set's configuration to its three splits: choose a source, read it, hold out what it lacks, sample, count.

Everything is a pure function of the configuration, the data and the seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kdc.data.base import Raw, Source
from kdc.data.columns import to_splits
from kdc.data.config import DatasetConfig
from kdc.data.examples import Examples, Splits
from kdc.errors import KdcError, did_you_mean
from kdc.tasks.base import TASKS


@dataclass(frozen=True)
class DataReport:
    """What was loaded. `overlap` counts the rows of `validation` and `test` whose inputs also stand in train."""

    name: str
    fingerprint: str
    splits: dict[str, int]
    labels: list[str]
    overlap: dict[str, int]
    notes: list[str] = field(default_factory=list)


def load_splits(
    config: DatasetConfig, *, data_dir: Path | None, seed: int, keep: Sequence[str] = ()
) -> tuple[Splits, DataReport]:
    """`train`, `validation` and `test`, in the order of the source; held-out rows keep the shares of the classes.

    Columns to `keep` are in the extras of `test`, under their own names.
    """
    source = choose_source(config, data_dir)
    raw = source.load(data_dir)
    columns = {**config.columns, **source.columns}
    splits, notes = to_splits(raw.tables, columns, config.labels, needed=TASKS[config.task].columns, keep=keep)
    notes = [*raw.notes, *notes]
    notes += _hold_out(splits, config, seed)
    splits = {split: splits[split] for split in ("train", "validation", "test")}
    _refuse_missing(keep, splits["test"], raw)
    if config.limit is not None:
        splits = {split: sample(examples, config.limit, seed=seed) for split, examples in splits.items()}
    for split, examples in splits.items():
        if len(examples) == 0:
            raise KdcError(
                f"dataset {config.name}: no row is left for {split}",
                f"raise dataset.{split} or give more data" if split != "train" else "lower dataset.validation",
            )
    return splits, _report(config.name, splits, notes)


def data_identity(config: DatasetConfig, data_dir: Path | None) -> dict[str, Any] | None:
    """What tells the source's contents without loading them (file hashes, versions); None where only loading tells."""
    source = choose_source(config, data_dir)
    identity = source.identity(data_dir)
    return None if identity is None else {"source": type(source).__name__, **identity}


def choose_source(config: DatasetConfig, data_dir: Path | None) -> Source:
    """The local source when `data_dir` is set, an absolute path is given, or there is no other; else the remote one."""
    sources = config.sources()
    local = {name: source for name, source in sources.items() if not source.remote}
    wanted = data_dir is not None or any(
        Path(path).expanduser().is_absolute() for source in local.values() for path in source.paths().values()
    )
    remote = {name: source for name, source in sources.items() if source.remote}
    candidates = local if local and (wanted or not remote) else remote
    if len(candidates) > 1:
        names = ", ".join(candidates)
        raise KdcError(
            f"dataset {config.name} has several sources ({names})", f"keep one: dataset.{next(iter(candidates))}=null"
        )
    return next(iter(candidates.values()))


def _hold_out(splits: Splits, config: DatasetConfig, seed: int) -> list[str]:
    """Fill in the splits that the source lacks, and say how."""
    notes = []
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
        notes.append("no labelled test split: validation is reported as test, and validation is held out of train")
    rows = len(splits["train"])
    for number, (split, share) in enumerate({"test": config.test, "validation": config.validation}.items()):
        if split not in splits:
            train = splits["train"]
            held = _stratified(_classes(train), max(1, round(share * rows)), np.random.default_rng([seed, number]))
            splits[split] = train.select(held)
            splits["train"] = train.select(np.setdiff1d(np.arange(len(train)), held))
    return notes


def sample(examples: Examples, rows: int, *, seed: int) -> Examples:
    """So many rows (all, if there are no more) with the classes (if any) in the shares they have, in their order."""
    if rows >= len(examples):
        return examples
    return examples.select(_stratified(_classes(examples), rows, np.random.default_rng([seed, 2])))


def _refuse_missing(keep: Sequence[str], test: Examples, raw: Raw) -> None:
    known = {name for table in raw.tables.values() for name in table.columns}
    for name in keep:
        if name not in test.extras:
            raise KdcError(f"report.slices: the test rows have no column '{name}'", did_you_mean(name, known - {name}))


def _classes(examples: Examples) -> np.ndarray:
    """The class of every row, `[rows]`; rows that have none are all of one, and so are drawn at random."""
    label = examples.columns.get("label")
    return label if isinstance(label, np.ndarray) and label.ndim == 1 else np.zeros(len(examples), dtype=np.int64)


def _stratified(labels: np.ndarray, rows: int, generator: np.random.Generator) -> np.ndarray:
    """Indices of `rows` rows, ascending: each row gets its random rank within its class, and the lowest win."""
    shuffled = generator.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    sizes = np.bincount(labels)
    sizes = sizes[sizes > 0]
    rank = np.concatenate([(np.arange(size) + 0.5) / size for size in sizes])
    # Classes of one size have equal ranks: the order of their rows must not depend on the order of the classes.
    chosen = np.lexsort((generator.random(len(rank)), rank))[:rows]
    return np.sort(by_class[chosen])


def _report(name: str, splits: Splits, notes: list[str]) -> DataReport:
    train = set(splits["train"].ids)
    overlap = {split: sum(row in train for row in splits[split].ids) for split in ("validation", "test")}
    for split, count in overlap.items():
        if count:
            notes.append(f"{split} rows that also stand in train: {count:,} of {len(splits[split]):,}")
    return DataReport(
        name=name,
        fingerprint=hashlib.sha256("".join(splits[split].fingerprint for split in splits).encode()).hexdigest(),
        splits={split: len(examples) for split, examples in splits.items()},
        labels=list(splits["train"].labels),
        overlap=overlap,
        notes=notes,
    )
