"""The named data sets on their public files, and all of them as configurations."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from kdc.data.config import DatasetConfig, dataset_config_model
from kdc.data.load import load_splits

pytestmark = pytest.mark.real

CONFIGS = Path(__file__).parents[2] / "configs" / "dataset"
LOCAL = {
    "sst2": ({"train": 67_349, "validation": 872, "test": 1_821}, 2, {"validation": 0, "test": 1}),
    "mrpc": ({"train": 3_668, "validation": 408, "test": 1_725}, 2, {"validation": 0, "test": 0}),
    "banking77": ({"train": 9_003, "validation": 1_000, "test": 3_080}, 77, {"validation": 0, "test": 0}),
    "sentence_polarity": ({"train": 8_530, "validation": 1_066, "test": 1_066}, 2, {"validation": 0, "test": 0}),
    "mnist": ({"train": 54_000, "validation": 6_000, "test": 10_000}, 10, {"validation": 0, "test": 0}),
}


def named(name: str) -> DatasetConfig:
    return dataset_config_model().model_validate(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("name", LOCAL)
def test_rows_labels_and_overlap(name: str, shared_data: Path) -> None:
    rows, labels, overlap = LOCAL[name]
    splits, report = load_splits(named(name), data_dir=shared_data, seed=0)
    assert report.splits == rows
    assert len(report.labels) == labels
    assert report.overlap == overlap
    assert all(len(np.unique(examples["label"])) == labels for examples in splits.values())


def test_sst2_by_hand(shared_data: Path) -> None:
    splits, report = load_splits(named("sst2"), data_dir=shared_data, seed=0)
    assert report.labels == ["negative", "positive"]
    assert splits["validation"]["text"][0] == "one long string of cliches ."
    assert splits["validation"]["label"][0] == 0
    assert np.bincount(splits["train"]["label"]).tolist() == [29_780, 37_569]
    train = splits["train"]
    assert len(train) - len(set(zip(train.ids, train["label"].tolist(), strict=True))) == 366
    assert len(train) - len(set(train.ids)) == 371


def test_mrpc_reads_both_sentences_and_literal_quotes(shared_data: Path) -> None:
    splits, report = load_splits(named("mrpc"), data_dir=shared_data, seed=0)
    test = splits["test"]
    assert report.labels == ["not_equivalent", "equivalent"]
    assert test["text"][0].startswith("PCCW's chief operating officer")
    assert test["text_pair"][0].startswith("Current Chief Operating Officer")
    together = [*splits["train"]["text"], *splits["validation"]["text"]]
    assert (
        'Amrozi accused his brother, whom he called "the witness", of deliberately distorting his evidence.' in together
    )


def test_mnist_by_hand(shared_data: Path) -> None:
    test = load_splits(named("mnist"), data_dir=shared_data, seed=0)[0]["test"]
    assert test["image"].shape == (10_000, 28, 28, 1)
    assert test["label"][:5].tolist() == [7, 2, 1, 0, 4]
    assert np.bincount(test["label"]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
