"""Quality in whole runs: comparisons, slices, perturbed rows, attributions; what `report` changes and what it hides."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kdc import dry_run, walk
from kdc.cli.main import main
from kdc.record import Comparison, RunRecord, Variant
from kdc.report.settings import ReportConfig
from kdc.screen import Screen
from kdc.stages import World
from kdc.store import Store
from tests import runs, tiny
from tests.test_keys import keys

pytestmark = pytest.mark.slow

BASE = ("dataset.test=0.5", "teacher.epochs=12", "teacher.learning_rate=5e-3", "train.learning_rate=0.05")
"""A teacher that learns, and a student that is taught too fast: many rows are flipped."""
EVERYTHING = (
    *BASE,
    "runtime=[onnxruntime,torch]",
    "report.slices=[source,year]",
    "report.attributions=integrated_gradients",
    "report.robustness=[typos,case]",
    "report.flips=4",
)


def write_csv(path: Path, rows: int = 120) -> Path:
    examples = tiny.sentences(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "source", "year", "url"])
        for i, (text, label) in enumerate(zip(examples["text"], examples["label"], strict=True)):
            source = ("web", "book", "mail")[i % 3]
            writer.writerow([f"{text} number{i} ends here", tiny.LABELS[label], source, 1900 + i, f"page/{i}"])
    return path


@pytest.fixture(scope="module")
def untimed() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdc.timing.time_variants", runs.untimed)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, untimed: None) -> Path:
    """`train.csv`, the cache that this module's runs share, and the folder of a run that was asked for everything."""
    place = tmp_path_factory.mktemp("evaluate")
    write_csv(place / "train.csv")
    runs.run(runs.config(place / "train.csv", place / "cache", *EVERYTHING), place / "whole")
    return place


@pytest.fixture(scope="module")
def whole(place: Path) -> RunRecord:
    return RunRecord.load(place / "whole" / "record.json")


def again(place: Path, folder: Path, *overrides: str) -> RunRecord:
    return runs.run(runs.config(place / "train.csv", place / "cache", *BASE, *overrides), folder)


def comparisons(record: RunRecord) -> list[tuple[Variant, Comparison]]:
    return [(variant, comparison) for variant in record.variants for comparison in variant.comparisons]


def test_what_is_compared_with_what(whole: RunRecord) -> None:
    assert {v.name: [(c.role, c.against) for c in v.comparisons] for v in whole.variants} == {
        "teacher.torch": [],
        "teacher.onnxruntime": [("teacher", "teacher.torch")],
        "student.torch": [("teacher", "teacher.torch")],
        "student.onnxruntime": [
            ("teacher", "teacher.torch"), ("before", "teacher.onnxruntime"), ("runtime", "student.torch")
        ],
        "student+int8.onnxruntime": [("teacher", "teacher.torch"), ("before", "student.onnxruntime")],
    }  # fmt: skip


def test_the_step_before_is_in_torch_where_its_own_runtime_has_none() -> None:
    def variant(point: str, runtime: str, *parents: str) -> Any:
        place = SimpleNamespace(name=point, parents=parents)
        return SimpleNamespace(name=f"{point}.{runtime}", point=place, runtime=SimpleNamespace(name=runtime))

    teacher, half = variant("teacher", "torch"), variant("student+bf16", "openvino", "student")
    student = variant("student", "torch", "teacher")
    assert walk.compared(half, [teacher, student, half]) == [("teacher", teacher), ("before", student)]
    assert walk.compared(half, [teacher, half]) == [("teacher", teacher)]


def test_every_comparison_is_whole_and_on_all_rows(whole: RunRecord) -> None:
    assert whole.dataset
    for variant, comparison in comparisons(whole):
        assert comparison.churn.n == whole.dataset.splits["test"] == 60
        assert variant.quality
        assert set(comparison.metrics) == set(variant.quality.metrics)
        theirs = whole.variant(comparison.against).quality
        assert theirs
        for name, difference in comparison.metrics.items():
            assert difference.value == pytest.approx(variant.quality.metrics[name].value - theirs.metrics[name].value)
        accuracy = comparison.metrics["accuracy"]
        churn = comparison.churn
        assert accuracy.value == pytest.approx((churn.wrong_to_right - churn.right_to_wrong) / 60)
        assert {group.by for group in comparison.groups} == {"class", "length", "source", "year"}
        assert {group.group for group in comparison.groups if group.by == "source"} == {"web", "book", "mail"}
        assert sum(group.n for group in comparison.groups if group.by == "year") == 60
        differences = [*comparison.metrics.values(), *(group.difference for group in comparison.groups)]
        tested = sum(difference.p is not None for difference in differences)
        assert comparison.correction == f"Holm over {tested} tests"
    assert any(comparison.flips for _, comparison in comparisons(whole)), "these models are small and differ"


def test_flipped_examples_are_shown_with_what_spoke_for_either_answer(whole: RunRecord, place: Path) -> None:
    with (place / "train.csv").open(encoding="utf-8") as file:
        texts = {row["text"]: row["label"] for row in csv.DictReader(file)}
    for variant, comparison in comparisons(whole):
        assert len(comparison.flips) == min(4, comparison.churn.right_to_wrong)
        for flip in comparison.flips:
            assert texts[flip.inputs["text"]] == flip.truth == flip.other != flip.answer
            assert set(flip.attributions) == {variant.name, comparison.against}
            for pieces in flip.attributions.values():
                words = (
                    "".join(piece for piece, _ in pieces).replace("##", "").replace("[CLS]", "").replace("[SEP]", "")
                )
                assert words.replace("[UNK]", "") in flip.inputs["text"].replace(" ", "") or "[UNK]" in words
                assert any(share != 0 for _, share in pieces)


def test_every_variant_is_measured_on_perturbed_rows(whole: RunRecord) -> None:
    plain, perturbed = [], []
    for variant in whole.variants:
        assert variant.quality
        assert list(variant.quality.robustness) == ["typos", "case"]
        for metric in variant.quality.robustness.values():
            assert metric.primary
            assert metric.ci95
            assert metric.ci95[0] <= metric.value <= metric.ci95[1]
        plain.append(variant.quality.metrics["accuracy"].value)
        perturbed.append(variant.quality.robustness["typos"].value)
    assert plain != perturbed
    case = [variant.quality.robustness["case"].value for variant in whole.variants if variant.quality]
    assert case == plain, "the tokenizer is uncased"


def test_calibration_is_on_the_record(whole: RunRecord) -> None:
    for variant in whole.variants:
        assert variant.quality
        assert variant.quality.calibration
        assert sum(part.n for part in variant.quality.calibration.bins) == 60


def test_the_record_is_json_without_nan(place: Path, whole: RunRecord) -> None:
    json.loads((place / "whole" / "record.json").read_text(), parse_constant=pytest.fail)


def test_a_second_run_computes_nothing_of_it_anew(whole: RunRecord, place: Path, tmp_path: Path) -> None:
    second = again(place, tmp_path / "out", *EVERYTHING)
    assert [stage.name for stage in second.stages if not stage.cached] == ["latency"]
    assert second.variants == whole.variants


def test_without_being_asked_nothing_more_is_computed(whole: RunRecord, place: Path, tmp_path: Path) -> None:
    """Slices, perturbations and attributions leave the keys of all other stages alone."""
    plain = again(place, tmp_path / "out", "runtime=[onnxruntime,torch]")
    assert [stage.name for stage in plain.stages if not stage.cached] == ["data", "latency"]
    assert not any(flip.attributions for _, comparison in comparisons(plain) for flip in comparison.flips)
    assert {group.by for _, comparison in comparisons(plain) for group in comparison.groups} == {"class", "length"}
    for before, after in zip(whole.variants, plain.variants, strict=True):
        assert before.quality
        assert after.quality
        assert after.quality.robustness == {}
        assert after.quality.metrics == before.quality.metrics


def test_a_dry_run_names_the_same_stages_with_the_same_keys(whole: RunRecord, place: Path) -> None:
    config = runs.config(place / "train.csv", place / "cache", *EVERYTHING)
    planned = dry_run.plan(config, World(Store(config.cache_dir), Screen()))
    done = [(stage.name, stage.key) for stage in whole.stages if not stage.name.startswith("attribute")]
    assert [(line.name, line.key or "") for line in planned] == done
    assert "predict student.torch typos" in [line.name for line in planned]


def rows_in(folder: Path, texts: list[str]) -> list[str]:
    """The files under `folder` that hold one of these texts."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    return [str(path) for path in files if any(text.encode() in path.read_bytes() for text in texts)]


def test_examples_false_keeps_rows_out_of_every_output(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (place / "train.csv").open(encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    shown = (*BASE, "runtime=[onnxruntime,torch]", "report.slices=[source]", "report.robustness=[typos]")
    words = runs.words(place / "train.csv", place / "cache", *shown)
    monkeypatch.chdir(tmp_path)
    assert main(["run", *words, "report.examples=false", "hydra.run.dir=hidden"]) == 0
    said = capsys.readouterr()
    assert not any(text in said.out + said.err for text in texts)
    assert rows_in(tmp_path / "hidden", texts) == []
    assert rows_in(tmp_path / "hidden", [f" number{i} " for i in range(120)]) == []
    flips = [f for _, c in comparisons(RunRecord.load(tmp_path / "hidden" / "record.json")) for f in c.flips]
    assert flips
    assert all(flip.id and flip.row >= 0 and flip.truth in tiny.LABELS and not flip.inputs for flip in flips)
    assert main(["run", *words, "hydra.run.dir=shown"]) == 0
    assert rows_in(tmp_path / "shown", texts) != [], "or this test would see nothing"


CHANGES: dict[str, tuple[str, Any]] = {
    "examples": ("false", lambda record: [f.inputs != {} for _, c in comparisons(record) for f in c.flips]),
    "flips": ("1", lambda record: max(len(c.flips) for _, c in comparisons(record))),
    "slices": ("[source]", lambda record: {g.by for _, c in comparisons(record) for g in c.groups}),
    "attributions": (
        "input_x_gradient",
        lambda record: [list(f.attributions) for _, c in comparisons(record) for f in c.flips],
    ),
    "robustness": ("[case]", lambda record: [list(v.quality.robustness) for v in record.variants]),
}
"""A value of the setting, and where its effect shows."""


def test_every_setting_of_the_report_is_here() -> None:
    assert set(ReportConfig.model_fields) == set(CHANGES)


@pytest.fixture(scope="module")
def plain(place: Path, untimed: None) -> RunRecord:
    return again(place, place / "plain", "runtime=torch", "compress=none")


@pytest.mark.parametrize("key", CHANGES)
def test_settings_of_the_report_change_the_record(key: str, plain: RunRecord, place: Path, tmp_path: Path) -> None:
    value, observe = CHANGES[key]
    after = again(place, tmp_path / "out", "runtime=torch", "compress=none", f"report.{key}={value}")
    assert observe(after) != observe(plain)


def test_attributions_that_do_not_add_up_are_noted_in_the_ledger(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdc.measure.attribution.INCOMPLETE", -1.0)  # no sum is good enough
    words = ("runtime=torch", "compress=none", "report.flips=3", "report.attributions=integrated_gradients")
    record = again(place, tmp_path / "out", *words)
    notes = {stage.name: stage.notes for stage in record.stages if stage.name.startswith("attribute")}
    assert "in 3 of 3 rows the shares miss up to" in notes["attribute student.torch"][0]


def test_slices_change_the_key_of_the_data_alone(place: Path, tmp_path: Path) -> None:
    before, after = (
        keys(runs.config(place / "train.csv", tmp_path, *words)) for words in ((), ("report.slices=[source]",))
    )
    assert [stage for stage in before if before[stage] != after[stage]] == ["data"]


def test_pictures(tmp_path: Path, untimed: None) -> None:
    words = ["teacher=mlp", "student=mlp_small", "dataset=digits", "dataset.limit=200", "compress=none", "bench=quick"]
    asked = ["report.attributions=input_x_gradient", "report.robustness=[noise]", "runtime=torch"]
    epochs = ["teacher.epochs=12", "train.epochs=2", "train.learning_rate=1e-3", f"cache_dir={tmp_path / 'cache'}"]
    record = runs.run(runs.to_run_config(runs.compose([*words, *asked, *epochs])), tmp_path / "out")
    (comparison,) = record.variants[-1].comparisons
    assert comparison.flips
    for flip in comparison.flips:
        assert flip.inputs["image"].startswith("data:image/png;base64,")
        assert [len(pieces) for pieces in flip.attributions.values()] == [64, 64]
    assert {group.by for group in comparison.groups} == {"class"}
    assert all(variant.quality and "noise" in variant.quality.robustness for variant in record.variants)


def test_a_test_set_of_one_row(tmp_path: Path, untimed: None) -> None:
    runs.write_csv(tmp_path / "train.csv", 60)
    (tmp_path / "test.csv").write_text("text,label\na good film,positive\n", encoding="utf-8")
    words = ("compress=none", "runtime=torch", f"dataset.files.test={tmp_path / 'test.csv'}")
    record = runs.run(runs.config(tmp_path / "train.csv", tmp_path / "cache", *words), tmp_path / "out")
    json.loads((tmp_path / "out" / "record.json").read_text(), parse_constant=pytest.fail)
    (comparison,) = record.variants[-1].comparisons
    assert comparison.churn.n == 1
    assert comparison.groups == []
    assert comparison.metrics["accuracy"].ci95 is None


def test_outputs_that_are_not_finite_fail_the_run(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kdc.stages.read_outputs", lambda published: {"logits": np.full((60, 2), np.nan)})
    words = (*BASE, "runtime=torch", "compress=none")
    assert main(["run", *runs.words(place / "train.csv", place / "cache", *words)]) == 1
    assert "the artifact returns logits that are not finite on 60 of 60 examples" in capsys.readouterr().err
