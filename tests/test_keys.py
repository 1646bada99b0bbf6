"""Every configuration key changes something: the keys of the stages that it must, what is timed, or what is recorded.

Keys are known before anything is computed, so that whole runs need not be made to compare them.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdc import stages, walk
from kdc.compress.plan import PrecisionPlan
from kdc.config import RunConfig, dataset_config_model
from kdc.data.load import load_splits
from kdc.distill.settings import DistillConfig, TrainConfig
from kdc.export.artifact import write_artifact
from kdc.export.base import RUNTIMES
from kdc.measure import latency
from kdc.measure.rounds import Contender
from kdc.measure.settings import BenchConfig
from kdc.models.build import load_model
from kdc.models.spec import StudentConfig, TeacherConfig
from kdc.screen import Screen
from kdc.stages import Step, World
from kdc.store import Published, Store
from tests import runs, tiny
from tests.workers import Workers

FOREVER = ("name",)
"""Names of components say which one it is; they change no stage that computes the same."""


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.write_csv(tmp_path_factory.mktemp("data") / "train.csv", 60)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers with a head for the file's labels, and its tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoint")
    encoder = tiny.encoder(tiny.sentences(60))
    tiny.bert(encoder.vocab_size).save_pretrained(folder)
    encoder.save(folder)
    return folder


def keys(config: RunConfig) -> dict[str, str]:
    """The key of every stage by its label in the ledger."""
    world = World(Store("/nonexistent"), Screen(), tuple(config.plugins))
    step = stages.data_step(config.dataset, config.data_dir, config.seed, config.report.slices)
    assert step is not None
    found = {"data": world.look(step).key}
    splits, _ = load_splits(config.dataset, data_dir=config.data_dir, seed=config.seed)
    data = stages.described(config.dataset, splits)

    def look(label: str, make: Callable[[], Step]) -> Published:
        seen = world.look(make())
        found[label] = seen.key
        return seen

    points, arms = walk.models(config, data, world, look)
    variants = [walk.export(point, runtime, data, world, look) for point, runtime in walk.cells(config, points)[0]]
    for variant in variants:
        walk.predictions(variant, data, look)
    walk.replicates(arms, variants, data, world, look)
    return found


def first_changed(before: RunConfig, after: RunConfig) -> str | None:
    """The first stage whose key is another one now. All that are built on it must have changed with it."""
    one, other = keys(before), keys(after)
    changed = [label for label in one if one[label] != other.get(label)]
    return changed[0] if changed else None


TRAINING = {
    "epochs": "3",
    "batch_size": "8",
    "learning_rate": "3e-4",
    "weight_decay": "0.1",
    "warmup_ratio": "0.2",
    "schedule": "cosine",
    "max_grad_norm": "0.5",
    "precision": "bf16",
    "evaluations": "2",
    "accumulate": "2",
    "patience": "1",
    "gradient_checkpointing": "true",
    "compile": "true",
}
UNKEYED = {"checkpoint_seconds", "trackers"}
"""When work is saved, and who is told: neither makes the work another."""


def test_every_setting_of_training_is_here() -> None:
    assert set(TrainConfig.model_fields) == {*TRAINING, *FOREVER, *UNKEYED}


@pytest.mark.parametrize("key", TRAINING)
def test_training_settings_change_the_models(key: str, train: Path, tmp_path: Path) -> None:
    base = ("train.precision=fp32",)
    before = runs.config(train, tmp_path, *base)
    after = runs.config(train, tmp_path, *base, f"train.{key}={TRAINING[key]}")
    # The teacher of these runs has its own.
    assert first_changed(before, after) == ("student" if key in ("epochs", "learning_rate") else "teacher")


def test_what_changes_no_weight_changes_no_key(train: Path, tmp_path: Path) -> None:
    words = ("train.checkpoint_seconds=1", "train.trackers=[tensorboard]", "name=other", "bench.calls=6")
    after = runs.config(train, tmp_path, *words)
    assert first_changed(runs.config(train, tmp_path), after) is None


@pytest.mark.parametrize(
    ("word", "stage"),
    [
        ("seed=1", "data"),
        ("teacher.epochs=3", "teacher"),
        ("teacher.batch_size=8", "teacher"),
        ("teacher.learning_rate=1e-5", "teacher"),
        ("teacher.vocab_size=300", "teacher"),
        ("teacher.architecture.hidden_size=16", "teacher"),
        ("student.layers=2", "student"),
        ("student.layers=[0]", "student"),
        ("student.pick=top", "student"),
        ("loss.terms.kl.weight=2", "student"),
        ("loss.terms.kl.temperature=3", "student"),
        ("loss.terms.hard.weight=2", "student"),
        ("loss.terms.hard=null", "student"),
        ("loss.terms.kl.weight={schedule: linear, start: 1, end: 0}", "student"),
        ("distill.signals=online", "signals"),
        ("distill.signals=cached", None),
        ("distill.cache_gb=1", None),
        ("distill.top_k=1", "signals"),
        ("distill.audit=[]", "student"),
        ("distill.generations=2", "student"),
        ("compress.int8.per_channel=false", "compress int8"),
        ("compress.int8.reduce_range=true", "compress int8"),
        ("compress.int8.embeddings=false", "compress int8"),
        ("compress.int8.exclude=['*query']", "compress int8"),
        ("compress=none", "compress int8"),
        ("dataset.limit=20", "data"),
        ("dataset.validation=0.2", "data"),
        ("dataset.test=0.2", "data"),
        ("dataset.labels=[positive,negative]", "data"),
        ("dataset.columns.text=label", "data"),
        ("dataset.max_length=16", "data"),
        ("dataset.metric=f1", "data"),
    ],
)
def test_the_first_stage_that_a_key_changes(word: str, stage: str | None, train: Path, tmp_path: Path) -> None:
    base = ("compress.int8.reduce_range=false",)
    assert first_changed(runs.config(train, tmp_path, *base), runs.config(train, tmp_path, *base, word)) == stage


SECOND = "+teacher@distill.teachers.second=bert_tiny"


def test_who_teaches_whom_is_in_the_students_key(train: Path, tmp_path: Path) -> None:
    words = {
        "alone": (),
        "two": (SECOND,),
        "other": (SECOND, "distill.teachers.second.epochs=1"),
        "combined": (SECOND, "distill.combine=confidence"),
        "weighed": (SECOND, "distill.teacher_weights={second: 2}"),
        "assisted": ("+student@distill.assistants.middle=layers",),
        "assisted by another": ("+student@distill.assistants.middle=layers", "distill.assistants.middle.layers=1"),
        "among peers": ("+student@distill.peers.peer=layers",),
        "among others": ("+student@distill.peers.peer=layers", "distill.peers.peer.layers=1"),
    }
    found = {name: keys(runs.config(train, tmp_path, *own)) for name, own in words.items()}
    assert len({own["student"] for own in found.values()}) == len(words)
    assert len({own["teacher"] for own in found.values()}) == 1
    assert found["two"]["second"] != found["other"]["second"]
    assert found["two"]["signals second"] != found["two"]["signals"]
    assert found["combined"]["second"] == found["weighed"]["second"] == found["two"]["second"]
    assert found["assisted"]["signals middle"] not in (found["alone"]["signals"], found["assisted"]["signals"])
    assert "signals" not in found["among peers"]


def test_seeds_and_controls_are_more_students(train: Path, tmp_path: Path) -> None:
    alone = keys(runs.config(train, tmp_path))
    more = keys(runs.config(train, tmp_path, "seeds=2", "control=true"))
    assert {name: more[name] for name in alone} == alone
    added = {name: key for name, key in more.items() if name not in alone and not name.startswith("export")}
    assert set(added) == {
        "student seed 1",
        *(f"control {name}, seed {seed}" for name in ("hard labels", "from scratch") for seed in (0, 1)),
    }
    assert len({*added.values(), alone["student"]}) == 6


def test_a_transfer_set_is_for_students_alone(train: Path, tmp_path: Path) -> None:
    file = tmp_path / "more.txt"
    file.write_text("a good film\nan awful plot\n")
    before = keys(runs.config(train, tmp_path))
    words = [f"dataset.unlabelled={file}"], ["dataset.augment={mask: 0.2}"]
    found = [keys(runs.config(train, tmp_path, *own)) for own in words]
    found.append(keys(runs.config(train, tmp_path, *words[0], "dataset.keep_labelled=true")))
    file.write_text("a good film\nan awful actor\n")
    found.append(keys(runs.config(train, tmp_path, *words[0])))
    for own in found:
        assert (own["teacher"], own["student"] != before["student"]) == (before["teacher"], True)
    assert len({own["student"] for own in found}) == len({own["transfer set"] for own in found}) == 4


@pytest.mark.parametrize("word", ["student.vocab_size=150", "student.architecture.hidden_size=64"])
def test_settings_of_a_student_from_scratch(word: str, train: Path, tmp_path: Path) -> None:
    base = runs.config(train, tmp_path, "student=bert_micro")
    assert first_changed(base, runs.config(train, tmp_path, "student=bert_micro", word)) == "student"


def test_settings_of_data_reach_the_models(train: Path, tmp_path: Path) -> None:
    before = keys(runs.config(train, tmp_path))
    for word in ("dataset.limit=20", "dataset.max_length=16", "dataset.metric=f1", "seed=1"):
        after = keys(runs.config(train, tmp_path, word))
        assert after["teacher"] != before["teacher"], word
        assert after["student"] != before["student"], word


@pytest.mark.parametrize("word", ["teacher.train=always", "teacher.label_map.negative=positive", "teacher.path=OTHER"])
def test_settings_of_checkpoints(word: str, train: Path, checkpoint: Path, tmp_path: Path) -> None:
    other = shutil.copytree(checkpoint, tmp_path / "other")
    base = ("teacher=bert", f"teacher.path={checkpoint}", "student=none", "compress=none")
    same = [*base, "dataset=csv", f"dataset.files.train={train}"]
    before = keys(runs.to_run_config(runs.compose(same)))
    if word == "teacher.path=OTHER":
        moved = [w.replace(str(checkpoint), str(other)) for w in same]
        assert keys(runs.to_run_config(runs.compose(moved))) == before, "the same weights in another place"
        with (other / "config.json").open("a") as file:
            file.write(" ")
        assert keys(runs.to_run_config(runs.compose(moved)))["teacher"] != before["teacher"]
    else:
        assert keys(runs.to_run_config(runs.compose([*same, word])))["teacher"] != before["teacher"]


def rewrite_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_weights_rewritten_in_place_make_another_teacher(train: Path, checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "teacher")
    words = ("teacher=bert", f"teacher.path={folder}", "student=none", "compress=none", "dataset=csv")
    config = runs.to_run_config(runs.compose([*words, f"dataset.files.train={train}"]))
    before = keys(config)
    rewrite_weights(folder)
    after = keys(config)
    assert (after["data"], after["teacher"] != before["teacher"]) == (before["data"], True)


def test_weights_rewritten_in_place_make_another_peer(train: Path, checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "peer")
    words = ("+student@distill.peers.peer=distilbert", f"distill.peers.peer.path={folder}")
    config = runs.config(train, tmp_path, *words)
    before = keys(config)
    rewrite_weights(folder)
    after = keys(config)
    assert (after["teacher"], after["student"] != before["student"]) == (before["teacher"], True)


def test_the_name_of_a_term_is_in_the_key_for_it_heads_the_history(train: Path, tmp_path: Path) -> None:
    renamed = ("loss.terms.kl=null", "loss.terms.soft={name: kl, weight: 1.0, temperature: 2.0}")
    one, other = (keys(runs.config(train, tmp_path, *words)) for words in ((), renamed))
    assert one["student"] != other["student"]


def test_contents_of_the_data_change_all_keys(train: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_bytes(train.read_bytes())
    config = runs.config(path, tmp_path)
    before = keys(config)
    path.write_text(path.read_text().replace("film", "movie", 1))
    after = keys(config)
    assert all(after[label] != before[label] for label in before)


def test_code_of_a_plugin_changes_all_keys(train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = tmp_path / "kdc_keyed_plugin.py"
    plugin.write_text("RATE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    without, with_plugin = runs.config(train, tmp_path), runs.config(train, tmp_path, "plugins=[kdc_keyed_plugin]")
    monkeypatch.delitem(sys.modules, "kdc_keyed_plugin")
    before = keys(with_plugin)
    assert before != keys(without)
    plugin.write_text("RATE = 2\n")
    after = keys(with_plugin)
    assert all(after[label] != before[label] for label in before)


def test_the_size_of_images_is_the_datas(tmp_path: Path) -> None:
    words = ["dataset=digits", "teacher=mlp", "student=mlp_small", f"cache_dir={tmp_path}"]
    before, after = (runs.to_run_config(runs.compose([*words, *more])) for more in ([], ["dataset.image_size=12"]))
    assert first_changed(before, after) == "data"
    assert keys(before)["teacher"] != keys(after)["teacher"]


BENCH: dict[str, tuple[Any, Any, Callable[[list[dict[str, Any]]], Any]]] = {
    "batches": ([1, 2], [1, 2], lambda jobs: [load["batch"] for load in jobs[0]["workloads"]]),
    "lengths": ([8, 24], [8, 24] * 2, lambda jobs: [load["length"] for load in jobs[0]["workloads"]]),
    "rounds": (2, 2, len),
    "calls": (9, 9, lambda jobs: jobs[0]["calls"]),
    "seconds": (0.3, 0.3, lambda jobs: jobs[0]["seconds"]),
    "rows": (0, None, lambda jobs: jobs[0]["rows"]),
    "threads": (1, 1, lambda jobs: jobs[0]["threads"]),
}
"""A value of the setting, and what it makes of the jobs that the timed processes get."""


def test_every_setting_of_the_bench_is_here() -> None:
    assert set(BenchConfig.model_fields) == {*BENCH, *FOREVER}


@pytest.fixture(scope="module")
def artifact(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    built, rows = load_model(checkpoint, tiny.task()), tiny.sentences(20)
    graphs = tiny.task().graphs(built.model, built.encoder, rows.select(range(3)))
    write_artifact(
        folder, task=tiny.task(), runtime=RUNTIMES["torch"](name="torch"), plan=PrecisionPlan(), graphs=graphs,
        encoder=built.encoder, examples=rows, model_config=built.model.config,
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("key", BENCH)
def test_bench_settings_change_what_is_timed(key: str, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def observed(**settings: Any) -> Any:
        workers = Workers({"a": [1.0] * 9}).install(monkeypatch)
        bench = BenchConfig(name="a", **{"lengths": [16], **settings})
        latency.time_variants({"a": Contender(artifact, rows=tiny.sentences(20))}, bench)
        return observe([job for _, job in workers.jobs])

    monkeypatch.setattr("kdc.machine.threads", lambda: 7)
    value, expected, observe = BENCH[key]
    assert observed() != expected
    assert observed(**{key: value}) == expected


def test_nothing_was_forgotten() -> None:
    """A field that joins a model of the configuration must join this file or the test that shows its effect."""
    models = {"name", "path", "revision", "architecture", "label_map"}
    assert set(TeacherConfig.model_fields) == models | {"vocab_size", "train", "epochs", "batch_size", "learning_rate"}
    assert set(StudentConfig.model_fields) == models | {"layers", "pick", "vocab_size"}
    own = {"name", "task", "columns", "labels", "metric", "limit", "validation", "test", "max_length", "image_size"}
    own |= {"unlabelled", "keep_labelled", "augment"}
    assert set(DistillConfig.model_fields) == {
        "teachers", "combine", "teacher_weights", "assistants", "peers", "generations", "signals", "cache_gb", "top_k",
        "audit",
    }  # fmt: skip
    sources = {"hub", "files", "idx", "image_folder", "digits", "stdlib_docs"}
    assert set(dataset_config_model().model_fields) == own | sources
    assert set(RunConfig.model_fields) == {
        "name", "seed", "seeds", "control", "plugins", "data_dir", "cache_dir", "dry_run",
        "teacher", "student", "loss", "compress", "dataset", "runtime", "train", "distill", "bench", "report",
        "optional_runtimes",  # no key: what runtime=auto became (test_config.py)
    }  # fmt: skip
