"""Whole runs in seconds: small files, small models, short benches, composed as the command line composes them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdc.config import RunConfig, compose, to_run_config
from kdc.pipeline import run_pipeline
from kdc.record import Latency, Memory, RunRecord
from tests import tiny

TEACHER = (
    "teacher.architecture.hidden_size=32",
    "teacher.architecture.num_hidden_layers=2",
    "teacher.architecture.num_attention_heads=2",
    "teacher.architecture.intermediate_size=64",
    "teacher.vocab_size=200",
    "teacher.epochs=2",
)
STUDENT = ("student=layers", "student.layers=1")
BENCH = ("bench=quick", "bench.lengths=[16]", "bench.rounds=1", "bench.calls=5", "bench.rows=4")
SMALL = (*TEACHER, *STUDENT, *BENCH, "train.epochs=2", "train.batch_size=16")


def write_csv(path: Path, rows: int = 80, *, pairs: bool = False, seed: int = 0) -> Path:
    """Sentences with a good or a bad word; with `pairs`, each stands beside a second one."""
    examples = tiny.sentences(rows, seed=seed)
    columns: dict[str, list[Any]] = {"text": examples["text"]}
    if pairs:
        columns["text_pair"] = examples["text"][::-1]
    columns["label"] = [tiny.LABELS[label] for label in examples["label"]]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def words(train: Path, cache: Path, *overrides: str) -> list[str]:
    """The overrides of a small run on a file; later ones replace earlier ones of the same key."""
    chosen = {}
    files = ("dataset=csv", f"dataset.files.train={train}", f"cache_dir={cache}")
    for word in (*files, *SMALL, *overrides):
        chosen[word.partition("=")[0]] = word
    own_student = chosen["student"] != "student=layers"
    return [word for key, word in chosen.items() if not (own_student and key == "student.layers")]


def config(train: Path, cache: Path, *overrides: str) -> RunConfig:
    return to_run_config(compose(words(train, cache, *overrides)))


def run(settings: RunConfig, folder: Path) -> RunRecord:
    return run_pipeline(settings, folder, command="kdc run", overrides=[])


def untimed(artifacts: Mapping[str, Path], *_: Any, **__: Any) -> dict[str, Any]:
    """In the place of `time_variants` where a test is about something else."""
    from kdc.measure.latency import VariantTiming

    timed = Latency(workload={"batch": 1, "length": 16}, p50_ms=1.0, throughput=1000.0, samples=[[1.0]])
    return {name: VariantTiming([timed], Memory(peak_rss_bytes=2, idle_rss_bytes=1), 0.1, 1.0) for name in artifacts}
