"""`kdc bench`: models that kdc did not make side by side, for real; names, choices and wrong input."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import onnx
import pytest

from kdc import machine
from kdc.cli import bench as command
from kdc.cli.main import main
from kdc.measure.noise import known_floor
from kdc.record import RunRecord
from kdc.store import default_root
from tests import foreign, tiny
from tests.workers import Workers

pytestmark = pytest.mark.slow

Capture = pytest.CaptureFixture[str]
SHORT = ("--bench", "quick", "--rounds", "1", "--threads", "1", "--length", "8")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    foreign.checkpoint(folder / "hf")
    foreign.graph(folder / "lookup.onnx", {"input_ids": ("rows", "sequence")})
    foreign.graph(folder / "fixed.onnx", {"input_ids": (2, 16)})
    foreign.graph(folder / "features.onnx", {"features": ("rows", 13)})
    return folder


def error_of(capsys: Capture) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("kdc: error: ")


def test_a_hugging_face_folder_and_an_onnx_file_side_by_side(place: Path, tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "record.json"
    (tmp_path / "rows.csv").write_text("text,label\n" + "good film,positive\n" * 5)
    words = [str(place / "hf"), str(place / "lookup.onnx"), *SHORT, "--batch", "1,2", "--json", str(target)]
    assert main(["bench", *words, "--data", str(tmp_path / "rows.csv")]) == 2
    assert "--data holds texts, and lookup.onnx reads none" in error_of(capsys)
    assert main(["bench", *words]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"hf +torch fp32", printed)
    assert re.search(r"lookup\.onnx +onnxruntime fp32", printed)
    assert re.search(r"batch 2 x 8 tokens\s+hf +[\d.]+ +baseline", printed)
    assert "lookup.onnx in onnxruntime is" in printed

    record = RunRecord.load(target)
    assert (record.run.status, record.baseline) == ("ok", "hf")
    ours, theirs = record.variants
    assert [latency.workload for latency in theirs.latency] == [
        {"batch": 1, "length": 8, "threads": 1},
        {"batch": 2, "length": 8, "threads": 1},
    ]
    assert all(len(latency.samples) == 1 and latency.versus[0].against == "hf" for latency in theirs.latency)
    assert ours.artifact is not None
    assert ours.artifact.path == str(place / "hf")
    assert ours.artifact.files["model.safetensors"] == (place / "hf" / "model.safetensors").stat().st_size
    assert theirs.artifact is not None
    assert theirs.artifact.files["forward.onnx"] == (place / "lookup.onnx").stat().st_size
    assert theirs.load_seconds is not None
    assert theirs.memory is not None
    assert record.timing is not None
    assert (record.timing.rounds, record.timing.processes) == (1, 2)


def test_own_artifacts_are_timed_on_real_rows_too(tmp_path: Path, capsys: Capture) -> None:
    examples = tiny.sentences(12)
    tiny.artifact(tmp_path / "student.openvino", tiny.built_bert(examples), examples, runtime="openvino")
    (tmp_path / "rows.txt").write_text("good film\na really bad film\n")
    target = tmp_path / "record.json"
    words = [str(tmp_path / "student.openvino"), *SHORT, "--data", str(tmp_path / "rows.txt"), "--json", str(target)]
    assert main(["bench", *words]) == 0
    assert re.search(r"2 rows end to end\s+student\.openvino", capsys.readouterr().out)
    (variant,) = RunRecord.load(target).variants
    assert variant.latency[-1].workload == {"rows": 2, "batch": 1, "end_to_end": True, "threads": 1}


def test_the_baseline_is_the_one_that_is_named(place: Path, tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "record.json"
    words = [str(place / "fixed.onnx"), str(place / "lookup.onnx"), "--batch", "2", "--length", "16", "--rounds", "3"]
    assert main(["bench", *words, "--threads", "1", "--baseline", "lookup.onnx", "--json", str(target)]) == 0
    assert re.search(r"lookup\.onnx +[\d.]+ +baseline", capsys.readouterr().out)
    record = RunRecord.load(target)
    assert record.baseline == "lookup.onnx"
    (versus,) = record.variants[0].latency[0].versus
    assert versus.against == "lookup.onnx"
    assert versus.ci95 is not None
    assert versus.ci95[0] < versus.ratio < versus.ci95[1]


def test_noise_is_told_and_remembered(place: Path, capsys: Capture) -> None:
    assert known_floor(default_root()) is None
    words = ["--rounds", "6", "--threads", "1", "--length", "8"]
    assert main(["bench", "--noise", str(place / "lookup.onnx"), *words]) == 0
    floor = known_floor(default_root())
    assert floor is not None
    assert (floor.rounds, floor.runtime) == (6, "onnxruntime")
    said = "lookup.onnx against itself, 6 rounds at batch 1 x 8 tokens on 1 thread: differences up to"
    assert capsys.readouterr().out.startswith(f"{said} {floor.floor:.1%} are noise on this machine")


# Settings


def settings(*words: str) -> Any:
    from kdc.cli.main import Parser

    parser = Parser()
    command.configure(parser)
    return command.settings(parser.parse_args(words))


def test_the_command_line_wins_over_the_bench() -> None:
    plain = settings("a")
    assert (plain.name, settings("a", "--bench", "quick").name) == ("default", "quick")
    changed = settings("a", "--batch", "3, 4", "--length", "5", "--rounds", "6", "--threads", "7")
    assert (changed.batches, changed.lengths, changed.rounds, changed.threads) == ([3, 4], [5], 6, 7)
    assert (changed.calls, changed.seconds) == (plain.calls, plain.seconds)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/x", "b/y.onnx"], ["x", "y.onnx"]),
        (["a/x", "b/x", "c"], ["a/x", "b/x", "c"]),
        (["1/a/x", "2/a/x"], ["1/a/x", "2/a/x"]),
        (["a/x", "a/x"], ["x", "x (2)"]),
        (["x", "./x", "x"], ["x", "x (2)", "x (3)"]),
    ],
)
def test_names_are_as_short_as_tells_them_apart(paths: list[str], names: list[str]) -> None:
    assert list(command.unique_names([Path(path) for path in paths])) == names


# Wrong input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to time; usage: kdc bench ARTIFACT..."),
        (["missing"], "there is no missing; kdc opens its artifacts"),
        (["hf", "--bench", "quikc"], "--bench: there is no 'quikc'; did you mean 'quick'?"),
        (["hf", "--batch", "1,x"], "argument --batch: 'x' is no number above 0"),
        (["hf", "--rounds", "0"], "argument --rounds: '0' is no number above 0"),
        (["hf", "--json", "nowhere/record.json"], "cannot write nowhere/record.json; name a file in a folder that is"),
        (["hf", "--json", "hf"], "cannot write hf; name a file in a folder that is"),
        (["hf", "lookup.onnx", "--noise"], "--noise times one artifact against itself; name one"),
        (["hf", "--noise", "--json", "floor.json"], "--json means nothing to --noise; leave one of them out"),
        (["hf", "--noise", "--bench", "thorough"], "--bench means nothing to --noise; leave one of them out"),
        (["hf", "--noise", "--baseline", "hf"], "--baseline means nothing to --noise; leave one of them out"),
        (["hf", "--noise", "--batch", "1,8"], "--noise times one workload, and --batch names several; name one"),
        (["hf", "--noise", "--length", "128,16"], "--noise times one workload, and --length names several; name one"),
        (["hf", "--noise", "--length", "128"], "hf can run nothing of the bench: not timed at length 128: the model"),
        (["lookup.onnx", "--baseline", "lokup.onnx", *SHORT], "--baseline: none is called 'lokup.onnx'; did you mean"),
        (["hf", "--data", "rows.csv", *SHORT], "--data: there is no file rows.csv"),
        (["lookup.onnx", "features.onnx", *SHORT], "features.onnx and lookup.onnx have no workload in common: batch 1"),
        (
            ["hf", "--length", "33,64"],
            "hf can run nothing of the bench: not timed at length 33, 64: the model",
        ),
        (["fixed.onnx", "lookup.onnx", *SHORT], "have no workload in common: batch 1 x 8 tokens against batch 2 x 16"),
    ],
)
def test_wrong_input_is_one_line(
    place: Path, words: list[str], message: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    assert main(["bench", *words]) == 2
    assert message in error_of(capsys)


def test_a_damaged_noise_floor_is_refused_before_any_worker_starts(
    place: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = Workers({}).install(monkeypatch)
    damaged = default_root() / "noise" / f"{machine.fingerprint()}.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text('{"floor": ')
    assert main(["bench", str(place / "lookup.onnx"), *SHORT]) == 2
    assert f"{damaged} holds no noise floor; measure it again: kdc bench ARTIFACT --noise" in error_of(capsys)
    assert workers.jobs == []


def test_rows_without_the_column_that_is_read(place: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "rows.csv").write_text("sentence,label\ngood,1\n")
    assert main(["bench", str(place / "hf"), *SHORT, "--data", str(tmp_path / "rows.csv")]) == 2
    assert "has no column 'text', which hf reads (it has sentence, label); call one 'text'" in error_of(capsys)


def test_a_graph_that_cannot_run_at_a_length_is_refused_before_anything_is_timed(
    tmp_path: Path, capsys: Capture
) -> None:
    """A table of positions that ends at 10 shows only when longer inputs are run."""
    foreign.graph(tmp_path / "short.onnx", {"position_ids": ("rows", "sequence")}, vocabulary=10)
    assert main(["bench", str(tmp_path / "short.onnx"), "--length", "8,12", "--threads", "1"]) == 2
    assert "short.onnx does not run at batch 1 x 12 tokens" in error_of(capsys)


def test_a_graph_of_operators_that_nobody_knows_is_one_line(tmp_path: Path, capsys: Capture) -> None:
    model = onnx.load(foreign.graph(tmp_path / "odd.onnx", {"input": ("rows", "sequence")}))
    model.graph.node[0].op_type = "Foo"
    onnx.save(model, tmp_path / "odd.onnx")
    assert main(["bench", str(tmp_path / "odd.onnx"), "--threads", "1"]) == 2
    said = error_of(capsys)
    assert "odd.onnx does not load" in said
    assert "Foo" in said


def test_plugins_are_imported_only_when_they_are_named(tmp_path: Path, capsys: Capture) -> None:
    examples = tiny.pictures(6)
    tiny.artifact(tmp_path / "own", tiny.built_net(examples, "mlp"), examples, runtime="torch")
    manifest = json.loads((tmp_path / "own" / "kdc.json").read_text(encoding="utf-8"))
    (tmp_path / "own" / "kdc.json").write_text(json.dumps(manifest | {"plugins": ["no_such_module"]}))
    assert main(["bench", str(tmp_path / "own")]) == 2
    assert "own needs the plugin no_such_module; name it: --plugin no_such_module" in error_of(capsys)
    assert main(["bench", str(tmp_path / "own"), "--plugin", "no_such_module"]) == 2
    assert "plugins: cannot import 'no_such_module'" in error_of(capsys)
