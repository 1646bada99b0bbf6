"""`kdc predict`: inputs in, labels and scores out, through whatever artifact is opened."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kdc.cli.main import main
from kdc.data.examples import Examples
from kdc.export.artifact import Artifact
from kdc.tasks.text_classification import TextClassification

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[Examples]:
    """What the artifact is asked; it answers the parity of a text's length, or of a picture's first pixel."""
    examples_seen: list[Examples] = []

    def predict(examples: Examples) -> dict[str, np.ndarray]:
        examples_seen.append(examples)
        rows = examples["text"] if "text" in examples else [range(int(image.flat[0])) for image in examples["image"]]
        return {"logits": np.array([[0.0, np.log(3.0)] if len(row) % 2 else [np.log(3.0), 0.0] for row in rows])}

    kind = getattr(request, "param", "text")
    artifact = SimpleNamespace(
        inputs={"image": ("image",), "pair": ("text", "text_pair")}.get(kind, ("text",)),
        labels=("even", "odd"),
        session=lambda threads=None: SimpleNamespace(task=TextClassification(), predict=predict),
    )
    monkeypatch.setattr(Artifact, "open", classmethod(lambda cls, folder, plugins: artifact))
    return examples_seen


def test_texts(seen: list[Examples], capsys: Capture) -> None:
    assert main(["predict", "folder", "abc", "[red]four"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[-2:] for line in printed.splitlines() if "75.0%" in line] == [["odd", "75.0%"]] * 2
    assert "[red]four" in printed
    assert seen[0]["text"] == ["abc", "[red]four"]


def test_json_lines_from_stdin(seen: list[Examples], capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("é\n\nzwei\n"))
    assert main(["predict", "--json", "folder", "-"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["input"], line["label"]) for line in lines] == [("é", "odd"), ("zwei", "even")]
    assert lines[0]["score"] == pytest.approx(0.75)


@pytest.mark.parametrize("seen", ["pair"], indirect=True)
def test_pairs(seen: list[Examples], capsys: Capture) -> None:
    assert main(["predict", "folder", "a", "--pair", "b"]) == 0
    assert (seen[0]["text"], seen[0]["text_pair"]) == (["a"], ["b"])
    assert main(["predict", "folder", "a"]) == 2
    assert "this artifact reads pairs of texts; give the second text of every INPUT" in capsys.readouterr().err
    assert main(["predict", "folder", "a", "b", "--pair", "c"]) == 2
    assert "2 inputs but 1 --pair" in capsys.readouterr().err


@pytest.mark.parametrize("seen", ["image"], indirect=True)
def test_pictures(seen: list[Examples], capsys: Capture, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.full((4, 4), 5, dtype=np.uint8)).save(tmp_path / "five.png")
    assert main(["predict", "folder", str(tmp_path / "five.png"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] == "odd"
    assert seen[0]["image"][0].shape == (4, 4, 1)
    (tmp_path / "text.png").write_text("no picture")
    assert main(["predict", "folder", str(tmp_path / "text.png")]) == 2
    assert main(["predict", "folder", str(tmp_path / "absent.png")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "text.png is no image that can be read" in errors[0]
    assert "absent.png: No such file or directory" in errors[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "--pair", "c"], "--pair: this artifact reads single texts"),
        (["a", " "], "input 2 is empty"),
        (["a", "--threads", "0"], "--threads: must be at least 1"),
    ],
)
def test_what_is_refused(words: list[str], message: str, seen: list[Examples], capsys: Capture) -> None:
    assert main(["predict", "folder", *words]) == 2
    assert capsys.readouterr().err.startswith(f"kdc: error: {message}")


def test_folder_that_is_no_artifact(tmp_path: Path, capsys: Capture) -> None:
    assert main(["predict", str(tmp_path), "text"]) == 2
    assert "is no kdc artifact" in capsys.readouterr().err
