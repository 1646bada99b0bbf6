"""What the README shows is run as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny

ROOT = Path(__file__).parent.parent


def test_what_ships_answers_without_kdc(tmp_path: Path) -> None:
    found = re.search(r"<!-- snippet -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found is not None
    texts = tiny.sentences(40)
    artifact = tiny.artifact(tmp_path / "artifact", tiny.built_bert(texts, seed=2), texts, runtime="onnxruntime")
    answers = artifact.session().answers(texts)
    rows = [answers.index(label) for label in tiny.LABELS]  # one of each answer
    snippet, folders = re.subn(r'(?m)^folder = ".*"$', f'folder = "{artifact.folder}"', found[1])
    scripts = [re.subn(r'tokenizer\(\[".*?"\]', f'tokenizer(["{texts["text"][i]}"]', snippet) for i in rows]
    assert [folders, *(given for _, given in scripts)] == [1, 1, 1]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(["import sys; sys.modules['kdc'] = None", *(code for code, _ in scripts)])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [answers[i] for i in rows]


@pytest.mark.parametrize("name", ["training", "distillation"])
def test_figures_are_those_that_a_script_wrote(name: str) -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    written = (ROOT / "scripts" / "results" / f"{name}.md").read_text().splitlines()
    table = [line for line in written if line.startswith("|")]
    assert len(table) > 4
    assert set(table) <= set(lines)


def test_rows_of_the_compression_table_are_those_that_a_script_wrote() -> None:
    found = re.search(r"<!-- compression -->\n(.*?)<!-- /compression -->", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found is not None
    rows = found[1].splitlines()
    assert len(rows) > 10
    assert set(rows) <= set((ROOT / "scripts" / "results" / "compression.md").read_text().splitlines())
