"""What the studies in scripts/ conclude from their numbers; the timing itself is theirs to run."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import tomllib
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import binomtest

from kdc import machine, measure
from kdc.config import compose, to_run_config
from kdc.errors import KdcError
from kdc.measure.settings import BenchConfig
from kdc.models.build import Built
from tests import tiny

SCRIPTS = Path(__file__).parent.parent / "scripts"
MARGIN = 0.05


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setattr("sys.dont_write_bytecode", True)

    def load(name: str) -> ModuleType:
        loader = SourceFileLoader(name.removesuffix(".py"), str(SCRIPTS / name))
        spec = importlib.util.spec_from_loader(loader.name, loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, loader.name, module)  # where dataclasses look for it
        loader.exec_module(module)
        return module

    return load


def test_ruff_reads_every_python_script() -> None:
    named = tomllib.loads((SCRIPTS.parent / "pyproject.toml").read_text())["tool"]["ruff"]["extend-include"]
    scripts = [path for path in SCRIPTS.iterdir() if path.is_file() and not path.suffix]
    python = [path.name for path in scripts if "python" in path.read_text().partition("\n")[0]]
    assert sorted(named) == sorted(f"scripts/{name}" for name in python)


def test_gate_runs_on_rounds_that_leave_no_doubt(script: Any) -> None:
    gate_runs = script("gate_runs.py").gate_runs
    quiet = np.random.default_rng(0).normal(0, 0.001, 40)
    for differences, sure in ((quiet, "pass"), (quiet + 0.2, "fail")):
        seen = gate_runs(differences, 50, MARGIN, resamples=10, runs_each=20)
        assert seen[sure]["rate"] == 1.0
        assert seen[sure]["ci95_rounds"] == (1.0, 1.0)
        assert seen[sure]["ci95"] == seen[sure]["ci95_runs"] == pytest.approx((0.025 ** (1 / 50), 1.0))
        assert seen["rounds_used"] == 8


def test_a_share_is_no_surer_than_the_rounds_that_it_comes_from(script: Any) -> None:
    """One slow spell in 80 rounds: however many gate runs are drawn, there was one spell."""
    gate_runs = script("gate_runs.py").gate_runs
    differences = np.random.default_rng(0).normal(0, 0.001, 80)
    differences[30:44] += 0.3
    seen = gate_runs(differences, 4000, MARGIN, resamples=60, runs_each=200)["fail"]
    by_runs, by_rounds = (seen[f"ci95_{by}"][1] - seen[f"ci95_{by}"][0] for by in ("runs", "rounds"))
    assert by_rounds > 5 * by_runs
    assert seen["ci95_rounds"][0] <= seen["rate"] <= seen["ci95_rounds"][1]
    assert seen["ci95"] == (
        min(seen["ci95_runs"][0], seen["ci95_rounds"][0]), max(seen["ci95_runs"][1], seen["ci95_rounds"][1])
    )  # fmt: skip


@pytest.mark.parametrize("hits", [0, 3, 50])
def test_clopper_pearson_is_scipys_exact_interval(hits: int, script: Any) -> None:
    reference = binomtest(hits, 50).proportion_ci(method="exact")
    assert script("gate_runs.py").clopper_pearson(hits, 50) == pytest.approx((reference.low, reference.high))


def test_a_study_that_was_killed_in_the_middle_of_a_line_goes_on(script: Any, tmp_path: Path) -> None:
    study = script("noise_study")
    kept = tmp_path / "quiet.jsonl"
    assert study.whole_lines(kept) == []
    names = ("A", "A again", *study.SLOWER)
    rounds = [{"at": 0.0, "seconds": 1.0, "medians": dict.fromkeys(names, float(ms))} for ms in (1, 2, 3)]
    lines = [json.dumps(each) + "\n" for each in rounds]
    kept.write_text("".join(lines)[:-20])
    assert study.whole_lines(kept) == rounds[:2]
    with kept.open("a") as file:
        file.write(lines[2])
    assert study.whole_lines(kept) == rounds
    np.testing.assert_array_equal(study.collect(tmp_path, "quiet", 2)["+10%"], [1.0, 2.0])


def test_a_study_goes_on_where_it_was_begun_alone(script: Any, tmp_path: Path) -> None:
    study = script("noise_study")
    noted = tmp_path / "repeats.json"
    own = {"machine": machine.fingerprint(), "timing": study.timing_hash()}
    noted.write_text(json.dumps({**own, "repeats": {"+10%": 7}}))
    assert study.calibrated(tmp_path) == {"+10%": 7}
    for changed in ({"machine": "m"}, {"timing": "0"}):
        noted.write_text(json.dumps({**own, **changed, "repeats": {"+10%": 7}}))
        ((name, value),) = changed.items()
        said = rf"holds a study of {name} {value}, not {own[name]}; name another --folder$"
        with pytest.raises(KdcError, match=said) as caught:
            study.calibrated(tmp_path)
        assert caught.value.exit_code == 2
        assert len(str(caught.value).splitlines()) == 1
    noted.write_text(json.dumps({"+10%": 7}))  # of a study that did not say
    with pytest.raises(KdcError, match=r"machine None, not \w+ and of timing None, not"):
        study.calibrated(tmp_path)


def test_a_study_is_one_of_the_code_and_the_settings_that_it_was_timed_with(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = script("noise_study")
    (tmp_path / "rounds.py").write_text("LOOKS = 1\n")
    with monkeypatch.context() as patch:
        patch.setattr(measure, "__file__", str(tmp_path / "__init__.py"))
        before = study.timing_hash()
        assert study.timing_hash() == before
        (tmp_path / "rounds.py").write_text("LOOKS = 2\n")
        assert study.timing_hash() != before
    own = study.timing_hash()
    monkeypatch.setattr(study, "BENCH", study.BENCH.model_copy(update={"calls": 99}))
    assert study.timing_hash() != own


def test_a_study_deletes_nothing_of_others(script: Any, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("years of work")
    with pytest.raises(KdcError, match=r"is not empty, and holds no study; name another --folder, or empty this one$"):
        script("noise_study").calibrated(tmp_path)
    assert thesis.read_text() == "years of work"


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.05, 0.05, "yes"), (0.01, 0.03, "yes"), (0.051, 0.08, "no"), (-0.2, -0.06, "no"),
        (0.0, 0.06, "undecided"), (-0.06, 0.06, "undecided"), (0.04, 0.3, "undecided"),
    ],
)  # fmt: skip
def test_medians_agree_when_their_interval_does(low: float, high: float, said: str, script: Any) -> None:
    assert script("bench_overhead").agrees(low, high) == said


def test_the_results_have_a_place_before_anything_is_timed(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overhead, results = script("bench_overhead"), tmp_path / "a" / "b"
    cell = {
        "artifact": "student.torch", "runtime": "torch", "kdc_ms": 1.0, "plain_ms": 1.0, "ratio": 1.0,
        "ci95": (0.99, 1.01), "worker_seconds": 2.0, "seconds_in_calls": 1.0, "agrees": "yes",
    }  # fmt: skip

    def compared(*_: Any) -> dict[str, Any]:
        assert results.is_dir()
        return cell

    monkeypatch.setattr(overhead, "compared", compared)
    monkeypatch.setattr("sys.argv", ["bench_overhead", "student.torch", "--results", str(results)])
    assert overhead.main() == 0
    assert json.loads((results / "bench_overhead.json").read_text())["cells"][0]["artifact"] == "student.torch"
    assert "| student.torch | torch |" in (results / "bench_overhead.md").read_text()


@pytest.mark.slow
def test_a_plain_loop_feeds_what_the_model_takes(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For real, on a DistilBERT, which knows no token types."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    rows = tiny.sentences(8)
    encoder = tiny.encoder(rows, inputs=("input_ids", "attention_mask"))
    config = DistilBertConfig(
        vocab_size=encoder.vocab_size, dim=32, n_heads=2, n_layers=1, hidden_dim=64, max_position_embeddings=32
    )
    built = Built(DistilBertForSequenceClassification(config).eval(), encoder, new_head=False)
    artifact = tiny.artifact(tmp_path / "artifact", built, rows, runtime="torch")
    overhead = script("bench_overhead")
    monkeypatch.setattr(overhead, "SECONDS", 0.05)
    bench = BenchConfig(name="plain", batches=[2], lengths=[8])
    assert 0 < overhead.plain_median(artifact, bench, 1) < 1000


MUTATION = {
    "term": "hard",
    "what": "sign flipped",
    "old": "return over_labelled(values",
    "new": "return over_labelled(-values",
}
KL = {
    "term": "kl",
    "what": "reversed",
    "old": "kl_divergence(teacher, student)",
    "new": "kl_divergence(student, teacher)",
}
HARMLESS = MUTATION | {"what": "nothing", "new": MUTATION["old"]}


@pytest.fixture
def study(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The study of mutations with files of its own."""
    module = script("mutation_study")
    monkeypatch.setattr(module, "MUTATIONS", tmp_path)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "mutations.md")
    monkeypatch.setattr(module, "registered", lambda: {"kl": "logits", "hard": "logits"})
    monkeypatch.setattr(module, "outcomes", lambda cases, function=None: [(function or failure)(*c) for c in cases])
    return module


def failure(family: str, mutation: Any) -> str:
    return "SURVIVED" if mutation is None or mutation.what == "nothing" else f"test_{mutation.term}"


def write(folder: Path, *entries: dict[str, str]) -> None:
    (folder / "logits.yaml").write_text(yaml.safe_dump(list(entries)))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([MUTATION], "logits: no mutation of 'kl'"),
        ([MUTATION, KL | {"old": "no such text"}], "logits: 'no such text' stands in the file 0 times, not once"),
        ([MUTATION, KL | {"old": "teacher"}], "times, not once"),
        ([MUTATION, KL, KL | {"term": "dkd"}], "logits: registers no term 'dkd'"),
    ],
)
def test_mutations_that_do_not_fit_are_refused(
    study: Any, entries: list[dict[str, str]], message: str, tmp_path: Path
) -> None:
    write(tmp_path, *entries)
    with pytest.raises(SystemExit, match=message):
        study.main()
    with pytest.raises(SystemExit, match="logit: is no family of loss terms"):
        study.main("logit")


def test_survivors_are_told_and_results_kept_of_whole_studies_alone(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, KL, MUTATION)
    assert study.main("logits") == 0
    assert not study.RESULTS.exists()
    assert study.main() == 0
    assert "| hard | sign flipped | test_hard |" in study.RESULTS.read_text()
    write(tmp_path, KL, HARMLESS)
    assert study.main() == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"mutations": 2, "terms": 2, "missed": 1}
    assert "| hard | nothing | SURVIVED |" in study.RESULTS.read_text()
    monkeypatch.setattr(
        study, "outcomes", lambda cases, function=lambda *_: "test_broken": [function(*c) for c in cases]
    )
    with pytest.raises(SystemExit, match="logits: test_broken fails without any mutation"):
        study.main()


@pytest.mark.slow
def test_real_mutations_are_caught_in_copies_of_the_package(tmp_path: Path) -> None:
    """In a checkout of its own, whose study reads mutations of its own."""
    for name in ("kdc", "tests", "configs", "pyproject.toml"):
        (tmp_path / name).symlink_to(SCRIPTS.parent / name)
    (tmp_path / "scripts" / "mutations").mkdir(parents=True)
    shutil.copy(SCRIPTS / "mutation_study", tmp_path / "scripts")
    crashing = [MUTATION | {"what": f"crash {i}", "new": new} for i, new in enumerate(("return ((", "return none("))]
    write(tmp_path / "scripts" / "mutations", KL, MUTATION, HARMLESS, *crashing)
    before = (SCRIPTS.parent / "kdc" / "distill" / "terms" / "logits.py").read_bytes()
    command = [sys.executable, tmp_path / "scripts" / "mutation_study", "logits"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    assert not ended.stderr
    assert [line.split()[-1] for line in ended.stdout.splitlines()[:-1]] == [
        "test_forward_kl_is_its_formula[0.5]", "test_hard_labels_are_cross_entropy", "SURVIVED", "BROKEN", "BROKEN",
    ]  # fmt: skip
    assert json.loads(ended.stdout.splitlines()[-1]) == {"mutations": 5, "terms": 2, "missed": 3}
    assert (SCRIPTS.parent / "kdc" / "distill" / "terms" / "logits.py").read_bytes() == before


def test_every_combination_of_a_benchmark_composes(script: Any, tmp_path: Path) -> None:
    shapes, compression = script("bench_shapes"), script("bench_compression")
    args = SimpleNamespace(teacher=tmp_path, data=tmp_path, runtimes=["onnxruntime", "openvino"], rounds=3)
    asked = [shapes.words(shape, name, 3) for shape in shapes.SHAPES for name in shapes.variants(shape)]
    asked += [compression.words(args, base, name) for base in compression.BASES for name in compression.PASSES[base]]
    assert len(asked) >= 8 * 4 + 50
    for words in asked:
        to_run_config(compose(words), overrides=words)


def test_a_goal_is_held_round_by_round(script: Any) -> None:
    """Spells that slow both down, in most rounds of the one and few of the other: medians would say 4.4 / 2 = 2.2x."""
    compression = script("bench_compression")
    fp32, int8 = [4.0, 4.4, 4.4, 4.4, 4.0], [2.2, 2.42, 2.0, 2.0, 2.0]

    def row(variant: str, rounds: list[float], accuracy: float) -> dict[str, Any]:
        told = {"variant": variant, "runtime": "onnxruntime", "accuracy": accuracy}
        return told | {"rounds_ms": dict.fromkeys(compression.SHOWN, rounds)}

    (met,) = compression.goals([row("teacher", fp32, 0.9), row("teacher+int8", int8, 0.896)])
    assert met.count("2.00x") == 3
    assert met.endswith("-0.40 points of accuracy (goal: 2x, at most 0.5 points lost: met)")
    slower = [ms * 1.01 for ms in int8]
    lines = [
        *compression.goals([row("teacher", fp32, 0.9), row("teacher+int8", slower, 0.896)]),
        *compression.goals([row("teacher", fp32, 0.9), row("teacher+int8", int8, 0.894)]),
        *compression.goals([row("teacher", fp32, 0.9), row("teacher+int8", int8, 0.9) | {"rounds_ms": {}}]),
    ]
    assert len(lines) == 3
    assert all(line.endswith("missed)") for line in lines)


def test_sentences_leave_with_all_their_phrases(script: Any) -> None:
    """Twenty sentences of four words, each with its phrases; all hold the phrase `it is`."""
    study = script("distill_study")
    spans = [(start, end) for start in range(4) for end in range(start + 1, 5)]
    rows = [
        (" ".join(f"it is w{number} x{number}".split()[start:end]), "1") for number in range(20) for start, end in spans
    ]
    kept, held = study.hold_out(rows, 30)
    kept_texts, held_texts = ({text for text, _ in part} for part in (kept, held))
    assert len(held) >= 30
    assert not kept_texts & held_texts
    assert {"it", "is", "it is"} & held_texts == set(), "a part of every sentence that is kept"
    for text in held_texts:
        assert not any(f" {text} " in f" {other} " for other in kept_texts)
    sentences = [text for text in held_texts if len(text.split()) == 4]
    own = {word for text in sentences for word in text.split()} - {"it", "is"}
    assert not any(own & set(text.split()) for text in kept_texts), "no word of theirs is trained on in a phrase"
    assert study.hold_out(rows, 30) == (kept, held)


def test_a_record_is_taken_for_the_same_settings_alone(script: Any, tmp_path: Path) -> None:
    study = script("distill_study")
    made = []

    def pipeline(config: Any, folder: Path, **settings: Any) -> str:
        made.append(folder)
        return "made"

    study.to_run_config, study.compose, study.run_pipeline = (lambda *_, **__: None), (lambda words: words), pipeline
    record = json.loads((Path(__file__).parent / "golden" / "record.json").read_text(encoding="utf-8"))
    record["run"] |= {"status": "ok", "overrides": ["seeds=2"]}
    (tmp_path / "record.json").write_text(json.dumps(record), encoding="utf-8")
    assert study.run(tmp_path, ["seeds=2"]).run.overrides == ["seeds=2"]
    assert made == []
    assert study.run(tmp_path, ["seeds=3"]) == "made"
    assert made == [tmp_path]
    assert not tmp_path.exists(), "a folder of other settings is in the way of a run"
