"""A data set's configuration and its splits in one call."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kdc.data.config import DatasetConfig, dataset_config_model
from kdc.data.examples import Splits
from kdc.data.load import DataReport, load_splits

Configure = Callable[..., DatasetConfig]
Load = Callable[..., tuple[Splits, DataReport]]


@pytest.fixture
def configure() -> Configure:
    def build(**settings: Any) -> DatasetConfig:
        return dataset_config_model()(**{"name": "mine", "task": "text-classification", **settings})

    return build


@pytest.fixture
def load(configure: Configure) -> Load:
    def build(*, data_dir: Path | None = None, seed: int = 0, keep: Sequence[str] = (), **settings: Any) -> Any:
        return load_splits(configure(**settings), data_dir=data_dir, seed=seed, keep=keep)

    return build
