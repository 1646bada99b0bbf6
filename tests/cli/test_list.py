"""`kdc list` and `kdc completion`: what there is, as the files say it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from kdc.cli.completion import SCRIPTS, complete
from kdc.cli.main import main
from kdc.compose import LISTED, choices

Capture = pytest.CaptureFixture[str]


def test_all_groups_with_their_choices(capsys: Capture) -> None:
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    for group in LISTED:
        for name, description in choices(group).items():
            assert name in printed
            assert description in printed


def test_one_group_marks_its_default(capsys: Capture) -> None:
    assert main(["list", "student"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.strip().startswith("* ") and "taken" not in line] == ["layers"]
    assert not any("onnxruntime" in line for line in lines)


def test_rules_of_a_gate_are_listed_with_the_command_that_takes_them(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "gate").mkdir()
    (tmp_path / "gate" / "mine.yaml").write_text("# Not found by its name\nbytes: {max: 1MB}\n")
    assert main(["list", "gate", "--config-dir", str(tmp_path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith(
        "gate rules that a run is held to (chosen by `kdc gate --rules`) * default Quality within"
    )
    assert printed.endswith("choose with `kdc gate --rules CHOICE`")
    assert "mine" not in printed
    assert main(["run", "gate=default"]) == 2


def test_unknown_group(capsys: Capture) -> None:
    assert main(["list", "studnet"]) == 2
    assert capsys.readouterr().err == "kdc: error: no group is called 'studnet'; did you mean 'student'?\n"


def test_choices_of_ones_own(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "experiment" / "deep").mkdir(parents=True)
    (tmp_path / "experiment" / "deep" / "mine.yaml").write_text("# @package _global_\n# What I tried\nseed: 1\n")
    assert main(["list", "experiment", "--config-dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "deep/mine" in printed
    assert "What I tried" in printed


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("kdc ru", ["run"]),
        ("kdc run teach", ["teacher="]),
        ("kdc run -m se", ["seed=", "seeds="]),
        ("kdc run teacher=bert_", ["teacher=bert_tiny"]),
        ("kdc run compress=[int8,b", ["compress=[int8,bf16"]),
        ("kdc run 'compress=[int8,b", []),
        ("kdc run compress=none,sv", ["compress=none,svd"]),
        ("kdc run teacher=[be", []),
        ("kdc run train.epochs=", []),
        ("kdc list st", ["student"]),
        ("kdc list ga", ["gate"]),
        ("kdc cache ", []),
    ],
)
def test_complete(line: str, found: list[str]) -> None:
    assert complete(line) == found


def test_complete_a_new_word() -> None:
    assert "run" in complete("kdc ")
    assert "compress=" in complete("kdc run teacher=bert ")
    others = [f"runtime=[onnxruntime,{name}" for name in ("auto", "inductor", "openvino", "torch")]
    assert complete("kdc run runtime=[onnxruntime,") == others


@pytest.mark.parametrize("shell", SCRIPTS)
def test_scripts_are_printed_and_parse(shell: str, capsys: Capture) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "kdc completion --words" in script
    if (program := shutil.which(shell)) is not None:
        subprocess.run([program, "-n", "-c", script], check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_after_the_equals_sign(tmp_path: Path) -> None:
    """Readline hands over the part after `=` and puts back only that."""
    fake = tmp_path / "kdc"
    fake.write_text("#!/bin/bash\necho teacher=bert\necho teacher=bert_tiny\n")
    fake.chmod(0o755)
    script = (
        f"PATH={tmp_path}:$PATH\n{SCRIPTS['bash']}\n"
        "COMP_LINE='kdc run teacher=be'; COMP_POINT=${#COMP_LINE}; _kdc; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "bert bert_tiny"
