"""The workflow in the README and scripts/ci_gate, with stand-ins for what only a CI service has."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.gates import answers, write_run

ROOT = Path(__file__).parent.parent


def workflow() -> dict[str, Any]:
    found = re.search(r"<!-- workflow -->\n```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found is not None
    return yaml.safe_load(found[1])


def commands() -> dict[str, str]:
    """What the steps of the workflow's job run, by their names."""
    return {step["name"]: step["run"] for step in workflow()["jobs"]["gate"]["steps"] if "run" in step}


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A checkout on a runner: `kdc run` copies a prepared run, `gh` notes its calls, `kdc gate` is real."""
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    tools = tmp_path / "bin"
    tools.mkdir()
    _program(
        tools / "kdc",
        f"""
        if [[ $1 == run ]]; then
            echo "$@" >>run.log
            [[ ! -e refuse ]] || exit 2
            [[ $* != *hydra.run.dir=* ]] || exit 0
            mkdir -p outputs && ln -sfn "$PWD/prepared" outputs/latest
        else
            PYTHONPATH={ROOT} exec {sys.executable} -m kdc "$@"
        fi
        """,
    )
    _program(tools / "gh", 'printf "%s\\n" "$*" >>gh.log; [[ $* != *--jq* ]] || cat comments 2>/dev/null || true')
    write_run(tmp_path / "prepared", answers())
    return tmp_path


def _program(path: Path, body: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\nset -euo pipefail\n{body}\n")
    path.chmod(0o755)


def step(job: Path, name: str, **environment: str) -> int:
    """Run one step as GitHub does; its exit code."""
    script = commands()[name]
    place = {
        **os.environ,
        "PATH": f"{job / 'bin'}:{os.environ['PATH']}",
        "GITHUB_STEP_SUMMARY": str(job / "summary.md"),
    }
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script], cwd=job, env=place | environment, check=False
    ).returncode


def test_a_first_job_saves_what_later_ones_are_held_against(job: Path) -> None:
    assert step(job, "Run and gate") == 0
    assert (job / "run.log").read_text() == "run experiment=digits_mlp\n"
    assert (job / "baseline" / "manifest.json").is_file()
    assert not (job / "gate.md").exists()
    (job / "prepared").rename(job / "old")
    write_run(job / "prepared", answers(wrong=260))
    assert step(job, "Run and gate", GATE="--strict bytes=null") == 3
    assert (job / "gate.md").read_text() == (job / "summary.md").read_text()
    assert "<failure" in (job / "gate.xml").read_text()
    (job / "refuse").touch()
    assert step(job, "Run and gate") == 2
    assert not (job / "gate.md").exists()


def test_an_older_run_is_not_gated_in_place_of_this_one(job: Path) -> None:
    (job / "outputs").mkdir()
    (job / "outputs" / "latest").symlink_to(job / "prepared")
    command = ["scripts/ci_gate", "baseline", "hydra.run.dir=mine"]
    place = {**os.environ, "PATH": f"{job / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=job, env=place, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "scripts/ci_gate: this run is not outputs/latest; leave out hydra.run.dir= and dry_run=true\n"
    )
    assert not (job / "baseline").exists()
    assert (job / "prepared" / "record.json").is_file()


def test_the_newest_main_becomes_the_baseline(job: Path) -> None:
    (job / "outputs").mkdir()
    (job / "outputs" / "latest").symlink_to(job / "prepared")
    for _ in range(2):
        assert step(job, "Save the baseline") == 0
    assert (job / "baseline" / "record.json").is_file()


def test_one_comment_is_made_and_then_updated(job: Path) -> None:
    comments = "repos/me/mine/issues/7/comments"
    assert step(job, "Comment", COMMENTS=comments) == 0
    assert not (job / "gh.log").exists()  # the run failed: nothing to say
    (job / "gate.md").write_text("<!-- kdc-gate -->")
    assert step(job, "Comment", COMMENTS=comments) == 0
    assert (job / "gh.log").read_text().splitlines()[-1] == f"api {comments} --field body=@gate.md"
    (job / "comments").write_text("42\n99\n")
    assert step(job, "Comment", COMMENTS=comments) == 0
    called = (job / "gh.log").read_text().splitlines()
    assert called[-1] == "api --method PATCH repos/me/mine/issues/comments/42 --field body=@gate.md"
    assert called[-2] == (f'api --paginate {comments} --jq .[] | select(.body | startswith("<!-- kdc-gate -->")) | .id')


def test_the_workflow_may_do_what_it_does() -> None:
    assert workflow()["permissions"] == {"contents": "read", "pull-requests": "write"}
    assert set(commands()) == {"Install", "Run and gate", "Comment", "Save the baseline"}
    assert commands()["Install"] == "pip install --constraint scripts/constraints.txt ."


def test_ci_gate_says_how_it_is_called() -> None:
    done = subprocess.run([ROOT / "scripts" / "ci_gate"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "scripts/ci_gate BASELINE [OVERRIDE...]" in done.stderr
