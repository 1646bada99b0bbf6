"""The surface of the command line, frozen; fast help; errors in one line."""

import argparse
import importlib
import os
import subprocess
import sys

import pytest

from kdc import __version__
from kdc.cli.main import COMMANDS, Parser, main

Capture = pytest.CaptureFixture[str]

SURFACE = {
    "run": {
        "KEY=VALUE", "--cfg", "--config-dir", "--help", "--multirun", "--package", "--resolve",
        "-c", "-cd", "-h", "-m", "-p",
    },
    "bench": {
        "ARTIFACT", "--baseline", "--batch", "--bench", "--data", "--help", "--json", "--length", "--noise", "--plugin",
        "--rounds", "--threads", "-h",
    },
    "list": {"GROUP", "--config-dir", "--help", "-h"},
    "predict": {"ARTIFACT", "INPUT", "--help", "--json", "--pair", "--plugin", "--threads", "-h"},
    "gate": {
        "RUN", "RULE.KEY=VALUE", "--baseline", "--help", "--json", "--junit", "--markdown", "--plugin", "--rules",
        "--save-baseline", "--strict", "--variant", "-h",
    },
    "completion": {"shell", "--help", "--words", "-h"},
}  # fmt: skip


@pytest.mark.parametrize("name", SURFACE)
def test_surface(name: str) -> None:
    """Users and scripts depend on these words: adding one is a decision, losing one a break."""
    parser = Parser(prog=f"kdc {name}")
    importlib.import_module(f"kdc.cli.{name}").configure(parser)
    words: set[str] = set()
    for action in parser._actions:
        words |= set(action.option_strings) or {str(action.metavar or action.dest)}
    assert words == SURFACE[name]


def test_commands() -> None:
    assert list(COMMANDS) == [
        "run",
        "bench",
        "report",
        "compare",
        "list",
        "doctor",
        "cache",
        "predict",
        "gate",
        "completion",
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(name: str, capsys: Capture) -> None:
    assert main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: kdc {name}")
    assert f"kdc {name}" in printed.split("examples:")[1]


def test_help_and_version(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in COMMANDS)
    assert "kdc run teacher=bert student=distilbert compress=int8" in printed
    assert main([]) == 0
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.endswith(f"kdc {__version__}\n")


def test_unknown_command(capsys: Capture) -> None:
    assert main(["rnu"]) == 2
    assert capsys.readouterr().err == "kdc: error: no subcommand is called 'rnu'; did you mean 'run'?\n"


def test_wrong_argument_is_one_line(capsys: Capture) -> None:
    assert main(["list", "teacher", "--bogus"]) == 2
    assert capsys.readouterr().err == "kdc: error: unrecognized arguments: --bogus; see `kdc list --help`\n"


def test_unexpected_exception(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def execute(args: argparse.Namespace) -> int:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("kdc.cli.list.execute", execute)
    assert main(["list"]) == 1
    assert capsys.readouterr().err == (
        "kdc: error: unexpected RuntimeError: first line; KDC_DEBUG=1 shows the traceback\n"
    )


HEAVY = ("torch", "transformers", "datasets", "onnxruntime", "onnx", "sklearn", "pandas", "pyarrow", "scipy")


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["list"], ["completion", "bash"]])
def test_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from kdc.cli.main import main; code = main(sys.argv[1:]); "
        f"print('HEAVY', [name for name in {HEAVY} if name in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize("words", [["run", "--cfg", "job"], ["run", "compress=nope"], ["run", "train.epochs=x"]])
def test_composing_and_refusing_need_no_torch(words: list[str]) -> None:
    code = "import sys; from kdc.cli.main import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_help_is_fast() -> None:
    """In seconds of computing, and the best of three: other work on the machine only ever adds."""
    best = min(_seconds([sys.executable, "-m", "kdc", "--help"]) for _ in range(3))
    assert best < 0.5


def _seconds(command: list[str]) -> float:
    before = os.times()
    subprocess.run(command, check=True, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def test_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m kdc list | head -1", shell=True, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("teacher")
    assert done.stderr == ""
