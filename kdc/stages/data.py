"""The step that loads the splits, and what models need to know of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from kdc.data.config import DatasetConfig
from kdc.data.examples import Splits
from kdc.data.load import DataReport, data_identity, load_splits
from kdc.stages.base import Data, Step, note, summary
from kdc.store import Published
from kdc.tasks.base import TASKS


def data_step(config: DatasetConfig, data_dir: Path | None, seed: int, keep: Sequence[str] = ()) -> Step | None:
    """The splits in the store, with columns to `keep`; None where their source cannot be told without reading it."""
    from kdc.data.saved import save_splits

    identity = data_identity(config, data_dir)
    if identity is None:
        return None

    def build(folder: Path, scratch: Path) -> None:
        splits, report = load_splits(config, data_dir=data_dir, seed=seed, keep=keep)
        save_splits(splits, folder)
        note(folder, report=asdict(report))

    parts = {"dataset": config, "source": identity, "seed": seed}
    return Step("data", {**parts, "keep": list(keep)} if keep else parts, build)


def read_data(published: Published) -> tuple[Splits, DataReport]:
    from kdc.data.saved import read_splits

    return read_splits(published.path), DataReport(**summary(published)["report"])


def described(config: DatasetConfig, splits: Splits) -> Data:
    """The splits with what models need to know of them; refuses those that the task cannot learn from."""
    task = TASKS[config.task]()
    metric = config.metric or next(iter(task.metrics))
    task.check(splits, metric)
    fingerprints = {split: examples.fingerprint for split, examples in splits.items()}
    return Data(task, splits, metric, config.max_length, config.image_size, fingerprints)
