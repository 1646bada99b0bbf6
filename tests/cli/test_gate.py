"""`kdc gate` from the command line: real flows on made-up runs, exit codes, files and one line for what is wrong."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from kdc import machine
from kdc.cli.main import main
from kdc.errors import KdcError
from kdc.gate import latency
from kdc.measure.noise import NoiseFloor, keep_floor
from kdc.store import default_root
from tests.gates import TRUTH, WORKLOAD, answers, fake_timing, write_run


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    run = write_run(tmp_path / "before", answers())
    assert gate(run, "--save-baseline", tmp_path / "baseline") == 0
    return tmp_path / "baseline"


@pytest.fixture(autouse=True)
def _quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.setattr(latency, "timed_rounds", fake_timing(10.1))


def gate(*words: object) -> int:
    return main(["gate", *map(str, words)])


def test_a_change_that_does_nothing_passes(tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(write_run(tmp_path / "now", answers()), "--baseline", baseline, "--strict") == 0
    output = capsys.readouterr().out
    assert [line.split()[-1] for line in output.splitlines()[2:5]] == ["pass"] * 3
    assert output.endswith("The gate passes (student.onnxruntime).\n")


def test_three_points_less_fail(tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = write_run(tmp_path / "now", answers(wrong=260))
    files = ["--junit", tmp_path / "gate.xml", "--json", tmp_path / "gate.json", "--markdown", tmp_path / "gate.md"]
    assert gate(now, "--baseline", baseline, *files) == 3
    assert (
        "The gate fails (student.onnxruntime): accuracy got worse by 3.00 points, from 90.0% to 87.0% (95% bounds "
        "-3.63 to -2.36); 1.50 points are allowed."
    ) in " ".join(capsys.readouterr().out.split())
    suite = ElementTree.parse(tmp_path / "gate.xml").getroot()[0]
    assert suite.attrib["failures"] == "1"
    found = json.loads((tmp_path / "gate.json").read_text())
    assert (found["schema"], found["outcome"], found["results"][0]["outcome"]) == ("kdc.gate/1", "fail", "fail")
    assert found["verdict"].startswith("The gate fails")
    assert found["results"][0]["estimate"] == pytest.approx(0.03)
    assert (tmp_path / "gate.md").read_text().startswith("<!-- kdc-gate -->")


def test_a_slower_artifact_fails(tmp_path: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "timed_rounds", fake_timing(11.5))
    now = write_run(tmp_path / "now", answers(), weights=b"changed")
    assert gate(now, "--baseline", baseline) == 3
    assert gate(now, "--baseline", baseline, "latency.max_slowdown=30%") == 0
    assert gate(now, "--baseline", baseline, "--rules", "untimed") == 0


def test_timing_that_fails_costs_no_other_rule_its_say(
    tmp_path: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> Any:
        raise KdcError("timing now: the process was killed (SIGKILL)", exit_code=1)

    monkeypatch.setattr(latency, "timed_rounds", killed)
    worse = write_run(tmp_path / "worse", answers(wrong=260), weights=b"changed")
    assert gate(worse, "--baseline", baseline, "--junit", tmp_path / "gate.xml") == 3
    suite = ElementTree.parse(tmp_path / "gate.xml").getroot()[0]
    assert (suite.attrib["failures"], suite.attrib["errors"]) == ("1", "1")
    assert "the process was killed" in (tmp_path / "gate.xml").read_text()
    equal = write_run(tmp_path / "equal", answers(), weights=b"changed")
    assert gate(equal, "--baseline", baseline) == 2


def test_a_margin_below_the_noise_that_this_machine_is_known_for(
    tmp_path: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KDC_CACHE", str(tmp_path / "cache"))
    now = write_run(tmp_path / "now", answers(), weights=b"changed")
    assert gate(now, "--baseline", baseline, "latency.max_slowdown=7%") == 0
    noise = NoiseFloor(
        floor=0.08, rounds=8, workload=WORKLOAD, runtime="onnxruntime", precision="fp32",
        machine=machine.fingerprint(), measured_at="2030-01-02T03",
    )  # fmt: skip
    keep_floor(noise, default_root())
    capsys.readouterr()
    assert gate(now, "--baseline", baseline, "latency.max_slowdown=7%") == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "a margin of 7.0% is below the noise of this machine, 8.0%" in said


def test_strict_wants_every_rule_decided(tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = write_run(
        tmp_path / "elsewhere", answers(), weights=b"changed",
        change=lambda record: record["environment"]["cpu"].update(model="other"),
    )  # fmt: skip
    here = tmp_path / "before"
    assert gate(here, "--baseline", elsewhere) == 0
    assert "elsewhere is of another machine; save a baseline on this one" in " ".join(capsys.readouterr().out.split())
    assert gate(here, "--baseline", elsewhere, "--strict") == 4
    assert capsys.readouterr().out.endswith("--strict: not decided: latency.max_slowdown\n")
    near = write_run(tmp_path / "near", answers(wrong=228))
    assert gate(near, "--baseline", baseline) == 0
    assert "The gate is inconclusive" in capsys.readouterr().out
    assert gate(near, "--baseline", baseline, "--strict") == 4


def test_a_margin_that_cannot_be_shown_is_refused(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = write_run(tmp_path / "now", answers(moved=59))
    assert gate(now, "--baseline", baseline, "primary.max_drop=0.5pp") == 2
    assert "resolve 0.90 points at best" in " ".join(capsys.readouterr().out.split())


def test_a_bare_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = write_run(tmp_path / "before", answers())
    now = write_run(tmp_path / "now", answers(wrong=260), weights=b"changed")
    assert gate(now, "--baseline", before / "record.json", "bytes.max_growth=0%") == 0
    outcomes = [line.split()[-1] for line in capsys.readouterr().out.splitlines()[2:5]]
    assert outcomes == ["informational", "pass", "informational"]


def test_the_summary_of_a_github_job_is_appended_to(
    tmp_path: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    gate(tmp_path / "before", "--baseline", baseline)
    assert summary.read_text().startswith("before\n<!-- kdc-gate -->\n### ✅ kdc gate: pass\n")


def test_no_row_of_a_user_gets_out(tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def flip(record: dict[str, Any]) -> None:
        flipped = {"row": 0, "id": "0", "truth": "a", "answer": "b", "other": "a", "inputs": {"text": "my SECRET"}}
        churn = {"n": 1, "right_to_wrong": 1, "wrong_to_right": 0, "changed": 1}
        comparison = {"against": "teacher", "role": "teacher", "metrics": {}, "churn": churn, "flips": [flipped]}
        record["variants"][0]["comparisons"] = [comparison]

    now = write_run(tmp_path / "now", answers(wrong=260), change=flip)
    assert "SECRET" in (now / "record.json").read_text()
    files = [tmp_path / name for name in ("gate.xml", "gate.json", "gate.md")]
    options = zip(("--junit", "--json", "--markdown"), files, strict=True)
    gate(now, "--baseline", baseline, *(word for option in options for word in option))
    captured = capsys.readouterr()
    assert not any("SECRET" in text for text in (captured.out, captured.err, *(file.read_text() for file in files)))


def test_what_cannot_be_judged_is_said_in_every_file(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--junit", tmp_path / "gate.xml", "--json", tmp_path / "gate.json", "--markdown", tmp_path / "gate.md"]
    now = write_run(tmp_path / "now", answers())
    assert gate(now, "--baseline", baseline, "acuracy.min=50%", *files) == 2
    said = "acuracy: student.onnxruntime was not measured by that; did you mean 'accuracy'?"
    assert capsys.readouterr().err == f"kdc: error: {said}\n"
    suite = ElementTree.parse(tmp_path / "gate.xml").getroot()[0]
    assert suite.attrib["errors"] == "1"
    assert suite[0][0].attrib["message"] == said
    summary = (tmp_path / "gate.md").read_text()
    assert summary.startswith(
        f"<!-- kdc-gate -->\n### ❌ kdc gate: refused\n\nThe gate cannot be judged ({now}): {said}"
    )
    assert json.loads((tmp_path / "gate.json").read_text())["outcome"] == "refused"
    (tmp_path / "gate.xml").unlink()
    assert gate(tmp_path / "nowhere", "--baseline", baseline, *files) == 2
    assert "there is no record of a run in" in (tmp_path / "gate.xml").read_text()


def test_one_row_of_the_test_set(tmp_path: Path) -> None:
    before = write_run(tmp_path / "before", TRUTH[:1])
    assert gate(before, "--baseline", before) == 0
    assert gate(write_run(tmp_path / "now", 1 - TRUTH[:1]), "--baseline", before) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "one of the arguments --baseline --save-baseline is required"),
        (["--baseline", "B", "--save-baseline", "X"], "not allowed with argument"),
        (["--baseline", "nowhere"], "there is no record of a run in nowhere"),
        (["--baseline", "B", "--rules", "defalt"], "no rules are called 'defalt'; did you mean 'default'?"),
        (["--baseline", "B", "--variant", "x"], "has no variant 'x'"),
        (["--baseline", "B", "--junit", "no/gate.xml"], "cannot write no/gate.xml; name a file in a folder"),
        (["--baseline", "B", "--plugin", "no_such_module"], "plugins: cannot import 'no_such_module'"),
        (["--save-baseline", "X", "bytes=null"], "'bytes=null': a baseline is saved without rules"),
        (["--save-baseline", "X", "--rules", "untimed"], "--rules: a baseline is saved without rules"),
        (["--save-baseline", "X", "--strict", "--json", "gate.json"], "--strict, --json: a baseline is saved without"),
        (["--save-baseline", "X", "--junit", "a", "--markdown", "b"], "--junit, --markdown: a baseline is saved"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], said: str, tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(baseline) if word == "B" else word for word in words]
    capsys.readouterr()
    assert gate(tmp_path / "before", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("kdc: error: ")
    assert error.count("\n") == 1
    assert said in error
