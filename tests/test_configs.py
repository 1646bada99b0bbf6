"""Golden tests of every YAML that ships: it composes, types without notes, says what it is, and spells its settings."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from kdc.compose import GROUPS, LISTED, choices, compose, config_dir, defaults
from kdc.compress.base import PASSES
from kdc.config import to_run_config
from kdc.distill.settings import TrainConfig
from kdc.distill.terms.base import TERMS
from kdc.export.base import RUNTIMES
from kdc.measure.settings import BenchConfig
from kdc.models.spec import PLAIN_NETS, StudentConfig, TeacherConfig

IMAGES = ["dataset=digits", "teacher=mlp", "student=mlp_small"]
# What a choice needs beside it to make sense.
COMPANY = {
    ("teacher", "mlp"): IMAGES,
    ("teacher", "cnn"): IMAGES,
    ("student", "mlp_small"): IMAGES,
    ("student", "cnn_small"): IMAGES,
    ("dataset", "digits"): IMAGES,
    ("dataset", "mnist"): IMAGES,
    ("dataset", "csv"): ["dataset.files.train=mine.csv"],
    ("compress", "bf16"): ["runtime=torch"],
    ("compress", "fp16"): ["runtime=torch"],
    ("compress", "prune_channels"): IMAGES,
    ("compress", "fold_batch_norm"): IMAGES,
    ("compress", "merge"): ["compress.merge.paths=[other]"],
    ("compress", "mixed_precision"): ["compress=[int8,mixed_precision]"],
    ("compress", "accuracy_control"): ["compress=[int8,accuracy_control]"],
    ("runtime", "torch"): ["compress=none"],
    ("runtime", "openvino"): ["compress=none"],
    ("runtime", "inductor"): ["compress=none"],
}
EVERY = [(group, choice) for group in GROUPS for choice in choices(group)]
ORIGIN_SETTINGS = {"path": {"revision", "label_map"}, "layers": {"pick"}, "architecture": set()}


def content(group: str, choice: str) -> dict[str, Any]:
    return yaml.safe_load((config_dir() / group / f"{choice}.yaml").read_text(encoding="utf-8")) or {}


@pytest.mark.parametrize(("group", "choice"), EVERY)
def test_composes_and_types_without_notes(group: str, choice: str) -> None:
    company = COMPANY.get((group, choice), [])
    lists = [word for word in company if word.startswith(f"{group}=[")]
    others = [word for word in company if not word.startswith(f"{group}=")]
    overrides = [*(lists or [f"{group}={choice}"]), *others]
    notes: list[str] = []
    config = to_run_config(compose(overrides), overrides=overrides, notify=notes.append)
    assert [note for note in notes if not note.startswith("runtime=auto leaves")] == []
    if group in ("teacher", "train", "bench", "dataset", "loss"):
        assert getattr(config, group).name == choice
    if group in ("compress", "runtime") and choice not in ("none", "auto"):
        assert list(getattr(config, group))[-1] == choice
        assert getattr(config, group)[choice].name == choice
    if group == "student":
        assert (config.student.name if config.student else "none") == choice


@pytest.mark.parametrize(("group", "choice"), EVERY)
def test_starts_with_a_one_line_description(group: str, choice: str) -> None:
    lines = (config_dir() / group / f"{choice}.yaml").read_text(encoding="utf-8").splitlines()
    comment = lines[1] if lines[0].startswith("# @package") else lines[0]
    assert comment.startswith("# ")
    assert choices(group)[choice] == comment[2:]
    assert 10 < len(comment) <= 110
    assert len(lines) <= 25


def settings(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields)


@pytest.mark.parametrize("choice", choices("compress"))
def test_passes_spell_every_setting(choice: str) -> None:
    for entry in content("compress", choice).values():
        assert set(entry) == settings(PASSES[entry["name"]])


@pytest.mark.parametrize("choice", sorted({*choices("runtime")} - {"auto"}))
def test_runtimes_spell_every_setting(choice: str) -> None:
    for entry in content("runtime", choice).values():
        assert set(entry) == settings(RUNTIMES[entry["name"]])


@pytest.mark.parametrize("choice", choices("loss"))
def test_terms_spell_every_setting(choice: str) -> None:
    for entry in content("loss", choice)["terms"].values():
        assert set(entry) == settings(TERMS[entry["name"]])


@pytest.mark.parametrize(("group", "model"), [("train", TrainConfig), ("bench", BenchConfig)])
def test_loops_and_benches_spell_every_setting(group: str, model: type[BaseModel]) -> None:
    for choice in choices(group):
        assert set(content(group, choice)) == settings(model), choice


@pytest.mark.parametrize(("group", "model"), [("teacher", TeacherConfig), ("student", StudentConfig)])
def test_models_spell_the_settings_of_their_origin(group: str, model: type[BaseModel]) -> None:
    """The settings of the origins that a model does not have are left out: they would only confuse."""
    of_training = settings(TeacherConfig) & {"train", "epochs", "batch_size", "learning_rate"}
    for choice in choices(group):
        given = set(content(group, choice))
        if choice == "none":
            continue
        (origin,) = given & set(ORIGIN_SETTINGS)
        wanted = {"name", origin} | ORIGIN_SETTINGS[origin] | (of_training if model is TeacherConfig else set())
        architecture = content(group, choice).get("architecture", {})
        if architecture and PLAIN_NETS.get(architecture["model_type"], "text") == "text":
            wanted.add("vocab_size")
        assert given == wanted, choice


def test_run_yaml_names_every_group_and_a_default_that_exists() -> None:
    assert set(defaults()) == set(GROUPS)
    for group, names in defaults().items():
        assert set(names) <= set(choices(group))
        assert bool(names) == (group != "experiment")


def test_every_group_folder_is_a_group() -> None:
    folders = {path.name for path in config_dir().iterdir() if path.is_dir()}
    assert folders == {*LISTED, "hydra"}


def test_no_config_names_a_function_to_call() -> None:
    """`_target_` would let a file call anything; Hydra's own callback is the only one."""
    named = [path for path in config_dir().rglob("*.yaml") if "_target_" in path.read_text(encoding="utf-8")]
    assert named == [config_dir() / "hydra" / "kdc.yaml"]


def test_config_dir_is_the_checkouts() -> None:
    assert config_dir() == Path(__file__).parents[1] / "configs"
