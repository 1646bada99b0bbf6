"""The rows that a student learns from: those of train, or unlabelled ones in their place, and new ones made of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kdc.data.augment import Candidates, augment
from kdc.data.base import find, hashes
from kdc.data.config import DatasetConfig
from kdc.data.examples import INPUTS, Examples, Splits, joined, loose_ids, unlabelled
from kdc.data.files import Files
from kdc.data.formats import EXTENSIONS, read_table
from kdc.data.images import EXTENSIONS as PICTURES
from kdc.data.images import pictures, read_picture, stack
from kdc.data.load import choose_source
from kdc.errors import KdcError, did_you_mean
from kdc.tasks.base import TASKS

KEY = "dataset.unlabelled"
READING = {"format", "delimiter", "quoting", "encoding", "names"}
HALF_A_PAIR = re.compile("[\ud800-\udfff]")


def transfer_rows(
    config: DatasetConfig,
    splits: Splits,
    *,
    data_dir: Path | None,
    seed: int,
    mask_token: str | None = None,
    candidates: Candidates | None = None,
    advance: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[Examples, list[str]]:
    """What the student trains on, and notes on how it came about. Rows without a label have `IGNORED`.

    `dataset.limit` samples splits; it leaves unlabelled rows alone. The last three are for `augment`.
    """
    train, notes = splits["train"], []
    rows = train
    if config.unlabelled is not None:
        rows, dropped = read_unlabelled(config, splits, data_dir=data_dir)
        said = f"transfer set: {len(rows):,} unlabelled rows"
        if config.keep_labelled:
            rows = joined(train, rows)
            said += f" beside {len(train):,} labelled ones"
        notes.append(said + _dropped(dropped))
    if config.augment is not None:
        before = len(rows)
        rows = augment(
            rows, config.augment, seed=seed, held_out=(splits["validation"], splits["test"]),
            mask_token=mask_token, candidates=candidates, advance=advance,
        )  # fmt: skip
        new, tried = len(rows) - before, before * config.augment.copies
        said = f"augmentation: {new:,} new rows made of {before:,}"
        notes.append(said + _dropped({"repeated, or found in validation or test": tried - new}))
    return rows, notes


def read_unlabelled(
    config: DatasetConfig, splits: Splits, *, data_dir: Path | None
) -> tuple[Examples, Mapping[str, int]]:
    """The usable rows of `dataset.unlabelled` in their order, and how many were dropped by what they were."""
    read = _read_pictures if TASKS[config.task].modality == "image" else _read_texts
    train = splits["train"]
    parts = [read(find(path, data_dir, key=KEY), config, train, data_dir) for path in _paths(config)]
    rows = joined(*(unlabelled(inputs, like=train) for inputs in parts))
    what = dict.fromkeys(loose_ids(train), "found in train") if config.keep_labelled else {}
    for split in ("validation", "test"):
        what |= dict.fromkeys(loose_ids(splits[split]), f"found in {split}")
    dropped: Counter[str] = Counter()
    kept = []
    for row, content in enumerate(loose_ids(rows)):
        if not all(rows[column][row].strip() for column in rows.inputs if column != "image"):
            dropped["empty"] += 1
        elif content in what:
            dropped[what[content]] += 1
        else:
            what[content] = "repeated"
            kept.append(row)
    if not kept:
        raise KdcError(
            f"{KEY}: none of its {len(rows):,} rows can be used{_dropped(dropped)}", "name a file that has others"
        )
    return rows.select(kept), dropped


def transfer_identity(config: DatasetConfig, data_dir: Path | None) -> dict[str, Any] | None:
    """What tells the rows of `transfer_rows` from others made of the same splits with the same seed and masked LM.

    None where they are those of train.
    """
    if config.unlabelled is None and config.augment is None:
        return None
    augmentation = None if config.augment is None else config.augment.model_dump(mode="json")
    files = [
        {"hashes": hashes(path, data_dir, key=KEY), "read": _reading(Path(path), config).model_dump(include=READING)}
        for path in _paths(config)
    ]
    columns = _columns(config, data_dir) if files else {}
    return {"files": files, "columns": columns, "keep_labelled": config.keep_labelled, "augment": augmentation}


def check_files(config: DatasetConfig, data_dir: Path | None) -> None:
    """KdcError where a file of `dataset.unlabelled` is missing or of no known format. None is read."""
    for path in _paths(config):
        find(path, data_dir, key=KEY)
        _reading(Path(path), config)


def transfer_problems(config: DatasetConfig) -> Iterator[str]:
    """Why the task cannot learn from such rows, each line with its dotted key. No file is looked at."""
    task = TASKS[config.task]
    own = [column for column in task.columns if column not in (*INPUTS, "label")]
    for key in ("unlabelled", "augment"):
        if own and getattr(config, key) is not None:
            yield f"dataset.{key}: rows of {task.name} need {own[0]}, which only labelled ones have"
    if config.augment is not None:
        yield from config.augment.problems(task.modality)


def _paths(config: DatasetConfig) -> list[str]:
    paths = config.unlabelled or []
    return [paths] if isinstance(paths, str) else paths


def _read_texts(path: Path, config: DatasetConfig, train: Examples, data_dir: Path | None) -> dict[str, list[str]]:
    """The columns that the training rows have, each under its name in the data or that of its role."""
    if path.is_dir() or path.suffix.lower() in PICTURES:
        raise KdcError(
            f"{KEY}: {path} is no table, and {config.task} reads texts", f"name files: {', '.join(EXTENSIONS)}"
        )
    table = read_table(path, _reading(path, config))
    columns = _columns(config, data_dir)
    texts = {}
    for role in train.inputs:
        column = columns.get(role, role)
        name = column if column in table else role
        if name not in table:
            raise KdcError(
                f"{KEY}: {path} has no column '{column}' among {', '.join(table)}",
                f"rename it, or dataset.columns.{role}=COLUMN; {did_you_mean(column, table)}",
            )
        texts[role] = [_text(value) for value in table[name]]
    return texts


def _read_pictures(path: Path, config: DatasetConfig, train: Examples, data_dir: Path | None) -> dict[str, Any]:
    """All pictures in a folder and those in it, grey or RGB like the training rows."""
    if not path.is_dir():
        raise KdcError(f"{KEY}: {path} is no folder, and {config.task} reads pictures", "name a folder of them")
    files = pictures(path, "**/*")
    if not files:
        raise KdcError(f"{KEY}: {path} holds no pictures", f"expected {', '.join(sorted(PICTURES))}")
    channels = train["image"][0].shape[-1]
    return {"image": stack([read_picture(file, channels) for file in files])}


def _columns(config: DatasetConfig, data_dir: Path | None) -> dict[str, str]:
    return {**config.columns, **choose_source(config, data_dir).columns}


def _reading(path: Path, config: DatasetConfig) -> Files:
    """How to read this file: as `dataset.files` says if its files are of the same format, else in that encoding."""
    files = getattr(config, "files", None) or Files()
    form = EXTENSIONS.get(path.suffix.lower())
    if form in (None, "text") and files.format is not None:
        return files
    if form is None:
        raise KdcError(
            f"{KEY}: '{path.suffix}' of {path} says nothing of the format", f"rename it to {', '.join(EXTENSIONS)}"
        )
    theirs = files.format or next((EXTENSIONS.get(Path(own).suffix.lower()) for own in files.paths().values()), None)
    if theirs in (None, form):
        return files.model_copy(update={"format": form})
    return Files(format=form, encoding=files.encoding)


def _text(value: Any) -> str:
    """Nothing where it is missing or holds half a surrogate pair, which no tokenizer reads."""
    text = "" if value is None else str(value)
    return "" if HALF_A_PAIR.search(text) else text


def _dropped(counts: Mapping[str, int]) -> str:
    said = ", ".join(f"{rows:,} {what}" for what, rows in counts.items() if rows)
    return f"; dropped: {said}" if said else ""
