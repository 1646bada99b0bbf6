"""What a model of the run will be is known, and what it cannot be is refused, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdc.cli.main import main
from kdc.errors import KdcError
from kdc.models.settings import architecture_settings, draw_model
from tests import tiny

BERT = {"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}


def test_keys_of_the_architecture_come_before_what_the_data_say() -> None:
    settings = architecture_settings({**BERT, "vocab_size": 7}, "student", {"vocab_size": 9, "num_labels": 5})
    assert (settings.vocab_size, settings.num_labels, settings.hidden_size) == (7, 5, 8)
    assert draw_model(settings, tiny.task(), "student").classifier.out_features == 5


@pytest.mark.parametrize(
    ("architecture", "says"),
    [
        ({"hidden_size": 8}, r"^student\.architecture has no model_type; add one"),
        (
            {**BERT, "model_type": "brt"},
            r"^student\.architecture: no model_type is called 'brt'; did you mean 'bert'\?$",
        ),
        ({**BERT, "hidden_size": "wide"}, r"^student\.architecture: .*'hidden_size'"),
        ({**BERT, "hidden_size": 7}, r"^student\.architecture: .*7"),
    ],
)
def test_what_makes_no_model_is_one_line(architecture: dict[str, Any], says: str) -> None:
    with pytest.raises(KdcError, match=says) as caught:
        draw_model(architecture_settings(architecture, "student", {}), tiny.task(), "student")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("student", ["bert_micro", "none"])
def test_a_run_refuses_it_before_it_computes(
    student: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    role = "teacher" if student == "none" else "student"
    words = (f"student={student}", f"{role}.architecture.hidden_size=31", f"cache_dir={tmp_path}", "dataset.limit=50")
    assert main(["run", "teacher=bert_tiny", *words, "dry_run=true"]) == 2
    assert f"kdc: error: {role}.architecture: The hidden size (31)" in capsys.readouterr().err
