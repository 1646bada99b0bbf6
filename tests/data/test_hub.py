"""The hub source: folders laid out like hub repositories, local caches, and what happens without a network."""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from kdc.data import hub
from kdc.data.load import data_identity
from kdc.errors import KdcError

SST2_CARD = """---
dataset_info:
  features:
  - name: idx
    dtype: int32
  - name: sentence
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': negative
          '1': positive
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: validation
    path: data/validation-*
  - split: test
    path: data/test-*
---
# SST-2
"""
SST2 = {"columns": {"text": "sentence"}, "labels": {"0": "negative", "1": "positive"}}


def parquet(path: Path, rows: Mapping[str, list]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(rows)), path)


def glue_sst2(folder: Path) -> Path:
    """As the hub lays out GLUE SST-2: parquet shards, a card that names the classes, test labels of -1."""
    for split, count in {"train": 40, "validation": 10, "test": 6}.items():
        rows = {
            "idx": pa.array(range(count), pa.int32()),
            "sentence": [f"{split} {i}" for i in range(count)],
            "label": pa.array([-1 if split == "test" else i % 2 for i in range(count)], pa.int64()),
        }
        parquet(folder / "data" / f"{split}-00000-of-00001.parquet", rows)
    (folder / "README.md").write_text(SST2_CARD)
    return folder


def check_sst2(splits, report) -> None:
    assert report.splits == {"train": 36, "validation": 4, "test": 10}
    assert report.labels == ["negative", "positive"]
    assert splits["test"]["text"] == [f"validation {i}" for i in range(10)]
    assert list(splits["test"]["label"]) == [i % 2 for i in range(10)]
    assert all(text.startswith("train ") for text in [*splits["train"]["text"], *splits["validation"]["text"]])


def test_a_folder_laid_out_like_glue_sst2(tmp_path: Path, load) -> None:
    splits, report = load(hub={"path": str(glue_sst2(tmp_path / "sst2"))}, **SST2)
    check_sst2(splits, report)
    assert any("(test) are withheld: its 6 rows" in note for note in report.notes)


def test_a_folder_is_read_anew_however_often_its_like_was_read(tmp_path: Path, load) -> None:
    first, second = (glue_sst2(tmp_path / place / "sst2") for place in ("one", "two"))
    _, before = load(hub={"path": str(first)}, **SST2)
    for folder in (second, first):
        rows = {"sentence": [f"other {i}" for i in range(40)], "label": [i % 2 for i in range(40)]}
        parquet(folder / "data" / "train-00000-of-00001.parquet", {"idx": pa.array(range(40), pa.int32()), **rows})
        splits, report = load(hub={"path": str(folder)}, **SST2)
        assert report.fingerprint != before.fingerprint
        assert splits["train"]["text"][0].startswith("other")


def test_class_names_of_the_card_are_the_labels(tmp_path: Path, load) -> None:
    _, report = load(hub={"path": str(glue_sst2(tmp_path / "sst2"))}, columns={"text": "sentence"})
    assert report.labels == ["negative", "positive"]


def test_configurations_and_other_names_of_splits(tmp_path: Path, load) -> None:
    for config in ("one", "two"):
        for split in ("train", "dev"):
            rows = {"text": [f"{config} {split} {i}" for i in range(20)], "label": [str(i % 2) for i in range(20)]}
            parquet(tmp_path / config / f"{split}.parquet", rows)
    card = "".join(
        f"- config_name: {config}\n  data_files:\n"
        + "".join(f"  - split: {split}\n    path: {config}/{split}.parquet\n" for split in ("train", "dev"))
        for config in ("one", "two")
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{card}---\n")
    where = {"path": str(tmp_path), "config": "two"}
    splits, _ = load(hub=where | {"splits": {"test": "dev"}})
    assert splits["test"]["text"][0] == "two dev 0"
    with pytest.raises(KdcError, match=r"has no split 'deev'; dataset\.hub\.splits\.test=NAME; did you mean 'dev'\?"):
        load(hub=where | {"splits": {"test": "deev"}})
    with pytest.raises(KdcError, match=r"does not load: .*three.*one.*two"):
        load(hub=where | {"config": "three"})


def test_pictures_come_as_pixels(tmp_path: Path, load) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (2, 10, 4, 4), dtype=np.uint8)
    for label, images in enumerate(pixels):
        for number, image in enumerate(images):
            path = tmp_path / "train" / f"digit{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    splits, report = load(hub={"path": str(tmp_path)}, task="image-classification")
    assert report.labels == ["digit0", "digit1"]
    assert splits["train"]["image"].shape == (16, 4, 4, 1)
    known = {image.tobytes(): label for label, images in enumerate(pixels) for image in images}
    assert [known[image.tobytes()] for image in splits["train"]["image"]] == list(splits["train"]["label"])


def test_offline_without_a_copy_is_one_line_at_once(load) -> None:
    start = time.perf_counter()
    with pytest.raises(KdcError) as error:
        load(hub={"path": "owner/absent"})
    assert time.perf_counter() - start < 5
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith("cannot get the data set owner/absent: HF_HUB_OFFLINE is set; data_dir=FOLDER")
    assert "kdc list dataset" in line


def test_a_hub_that_cannot_be_reached_names_its_address(load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "unreachable", lambda: "https://hub cannot be reached (connection refused)")
    with pytest.raises(KdcError, match=r"https://hub cannot be reached \(connection refused\); data_dir="):
        load(hub={"path": "owner/absent"})


def test_a_hub_that_answers_is_asked_for_the_revision(load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    here = datasets.load_dataset(str(glue_sst2(tmp_path / "sst2")))
    monkeypatch.setattr(hub, "unreachable", lambda: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or here)
    check_sst2(*load(hub={"path": "owner/sst2", "config": "c", "revision": "v1"}, **SST2))
    assert asked == [(("owner/sst2", "c"), {"revision": "v1", "cache_dir": None})]


def test_offline_uses_what_was_downloaded_into_the_hub_cache(load) -> None:
    repository = Path(huggingface_hub.constants.HF_HUB_CACHE) / "datasets--owner--downloaded"
    commit = "a" * 40
    glue_sst2(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    splits, report = load(hub={"path": "owner/downloaded"}, **SST2)
    check_sst2(splits, report)
    assert report.notes[0] == "owner/downloaded is a local copy: HF_HUB_OFFLINE is set"


def test_offline_uses_what_was_loaded_before(load, tmp_path: Path) -> None:
    datasets.load_dataset(str(glue_sst2(tmp_path / "loaded")))
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    shutil.copytree(cache / "loaded", cache / "owner___loaded")
    splits, report = load(hub={"path": "owner/loaded", "revision": "v1"}, **SST2)
    check_sst2(splits, report)
    assert report.notes[0].startswith("owner/loaded is a local copy, revision v1 unchecked")
    with pytest.raises(KdcError, match="has no split 'nope'"):
        load(hub={"path": "owner/loaded", "splits": {"test": "nope"}}, **SST2)


def test_a_folder_that_is_not_there(load, tmp_path: Path) -> None:
    with pytest.raises(KdcError, match=r"dataset\.hub\.path: there is no folder"):
        load(hub={"path": str(tmp_path / "nowhere")})
    (tmp_path / "empty").mkdir()
    with pytest.raises(KdcError, match="does not load"):
        load(hub={"path": str(tmp_path / "empty")})


def test_identity_of_a_folder_is_its_files_and_a_repository_has_none(configure, tmp_path: Path) -> None:
    config = configure(hub={"path": str(glue_sst2(tmp_path / "sst2"))})
    before = data_identity(config, None)
    assert before == data_identity(config, None)
    assert "README.md" in str(before)
    (tmp_path / "sst2" / "README.md").write_text(SST2_CARD + "more")
    assert data_identity(config, None) != before
    assert data_identity(configure(hub={"path": "owner/name"}), None) is None
