"""`kdc predict`: what a shipped artifact answers to texts or images, through the files that ship."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdc.errors import KdcError

if TYPE_CHECKING:
    import numpy as np

    from kdc.data.examples import Examples

SUMMARY = "ask an artifact for answers"
EPILOG = """examples:
  kdc predict outputs/latest/artifacts/VARIANT "how do I open a socket?"
  kdc predict outputs/latest/artifacts/VARIANT "a first sentence" --pair "a second one"
  kdc predict outputs/latest/artifacts/VARIANT digit.png other.png
  kdc predict outputs/latest/artifacts/VARIANT --json - < questions.txt
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="a folder under a run's artifacts/")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="a text or an image file; - reads lines from stdin")
    parser.add_argument("--pair", action="append", metavar="TEXT", help="second text of an INPUT, in their order")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--plugin", action="append", default=[], metavar="MODULE", help="a module that it needs")
    parser.add_argument("--threads", type=int, metavar="N", help="threads to use (all cores)")
    parser.epilog = EPILOG


def execute(args: argparse.Namespace) -> int:
    from kdc.export.artifact import Artifact

    if args.threads is not None and args.threads < 1:
        raise KdcError(f"--threads: must be at least 1 (got {args.threads})")
    artifact = Artifact.open(args.artifact, args.plugin)
    inputs = [line for word in args.inputs for line in (_stdin() if word == "-" else [word])]
    if not inputs:
        raise KdcError("stdin held no lines", "give one input a line")
    examples = read_inputs(inputs, args.pair, columns=artifact.inputs)
    session = artifact.session(threads=args.threads)
    outputs = session.predict(examples)
    answers = session.task.answers(outputs, artifact.labels)
    confidences = session.task.confidences(outputs)
    scores = [None] * len(answers) if confidences is None else confidences.tolist()
    _print(inputs, answers, scores, as_json=args.json)
    return 0


def read_inputs(inputs: Sequence[str], pairs: Sequence[str] | None, *, columns: Sequence[str]) -> Examples:
    """The `columns` that an artifact reads: texts as they are, pictures from their files."""
    from kdc.data.examples import Examples

    if pairs is not None and "text_pair" not in columns:
        raise KdcError(
            f"--pair: this artifact reads {'images' if 'image' in columns else 'single texts'}", "leave it out"
        )
    if pairs is None and "text_pair" in columns:
        raise KdcError("this artifact reads pairs of texts", "give the second text of every INPUT with --pair")
    if "image" in columns:
        return Examples({"image": [_picture(Path(name)) for name in inputs]})
    for number, text in enumerate(inputs, 1):
        if not text.strip():
            raise KdcError(f"input {number} is empty", "give a text")
    if pairs is not None and len(pairs) != len(inputs):
        raise KdcError(f"{len(inputs)} inputs but {len(pairs)} --pair", "give one --pair for every INPUT")
    return Examples({"text": list(inputs)} | ({"text_pair": list(pairs)} if pairs is not None else {}))


def _stdin() -> list[str]:
    return [line.rstrip("\n") for line in sys.stdin if line.strip()]


def _picture(path: Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    from kdc.data.images import to_array

    try:
        with Image.open(path) as picture:
            return to_array(picture)
    except UnidentifiedImageError as error:
        raise KdcError(f"{path} is no image that can be read", "give PNG, JPEG or the like") from error
    except OSError as error:
        raise KdcError(
            f"{path}: {error.strerror or error}", "give an image file: this artifact reads images"
        ) from error


def _print(inputs: Sequence[str], answers: Sequence[Any], scores: Sequence[float | None], *, as_json: bool) -> None:
    if as_json:
        for text, answer, score in zip(inputs, answers, scores, strict=True):
            print(json.dumps({"input": text, "label": answer, "score": score}, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.text import Text

    from kdc.report.console import plain_table

    table = plain_table(("input", "answer", "score"), left=range(2))
    for text, answer, score in zip(inputs, answers, scores, strict=True):
        table.add_row(Text(text), Text(str(answer)), "" if score is None else f"{score:.1%}")
    Console().print(table)
