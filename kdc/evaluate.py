"""Quality of a run's variants: each on the test rows, against teacher and step before, and what is asked for beyond.

The stages that need computing are entered as all others of the run are; what they say goes into the record.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdc import stages, walk
from kdc.measure.comparison import compare
from kdc.measure.quality import measure_quality, save_predictions
from kdc.measure.scores import Scores, metric_value, score_rows
from kdc.measure.slices import Slice, cut, cut_by_pieces
from kdc.record import Flip, RunRecord
from kdc.stages import Data
from kdc.walk import Enter, Variant

if TYPE_CHECKING:
    from kdc.config import RunConfig


def evaluate(
    record: RunRecord, config: RunConfig, variants: Sequence[Variant], data: Data, enter: Enter, *, folder: Path
) -> None:
    """Fill in `quality` and `comparisons` of every variant, and write its predictions into `folder`."""
    scores = _qualities(record, config, variants, data, enter, folder)
    for name, perturbed in walk.perturbed(data, config.report.robustness, config.seed):
        for variant in variants:
            outputs = stages.read_outputs(walk.predictions(variant, perturbed, enter, on=name))
            value = metric_value(
                data.task, score_rows(data.task, outputs, perturbed.splits["test"]), data.metric, primary=True
            )
            quality = record.variant(variant.name).quality
            assert quality is not None
            quality.robustness[name] = value
    rows, settings = data.splits["test"], config.report
    slices = cut(data.task, rows, settings.slices)
    for variant in variants:
        record.variant(variant.name).comparisons = [
            compare(
                data.task, scores[variant.name], scores[other.name], rows, [*slices, *_pieces(variant, other, data)],
                against=other.name, role=role, flips=settings.flips, show=settings.examples,
            )
            for role, other in walk.compared(variant, variants)
        ]  # fmt: skip
    if settings.attributions != "none":
        for variant in variants:
            if found := list(_flips_of(record, variant.name)):
                _attribute(found, settings.attributions, variant, scores[variant.name], data, enter)


def _qualities(
    record: RunRecord, config: RunConfig, variants: Sequence[Variant], data: Data, enter: Enter, folder: Path
) -> dict[str, Scores]:
    """The same test rows for all, through the artifacts themselves; the baseline teacher is what they keep."""
    rows = data.splits["test"]
    scores: dict[str, Scores] = {}
    for variant in variants:
        own = score_rows(data.task, stages.read_outputs(walk.predictions(variant, data, enter)), rows)
        teacher = scores.get(variants[0].name)
        record.variant(variant.name).quality = measure_quality(
            data.task, own, split="test", primary=data.metric, teacher=teacher
        )
        save_predictions(folder / f"{variant.name}.parquet", data.task, own, rows, show=config.report.examples)
        scores[variant.name] = own
    return scores


def _pieces(variant: Variant, other: Variant, data: Data) -> list[Slice]:
    """The test rows by whether both read the same of them."""
    own, theirs = (data.task.encoder.load(one.artifact.path / stages.ARTIFACT) for one in (variant, other))
    return cut_by_pieces(own, theirs, data.splits["test"])


def _attribute(flips: Sequence[Flip], method: str, variant: Variant, own: Scores, data: Data, enter: Enter) -> None:
    """Add to these examples what spoke for the variant's answers in the weights of its model stage."""
    numbers = sorted({flip.row for flip in flips})
    rows, answers = data.splits["test"].select(numbers), [own.answers[number] for number in numbers]
    published = enter(
        f"attribute {variant.name}",
        lambda: stages.attributions_step(variant.point.model, data, rows, answers, method),
    )
    found = dict(zip(numbers, stages.read_attributions(published), strict=True))
    for flip in flips:
        flip.attributions[variant.name] = found[flip.row]


def _flips_of(record: RunRecord, name: str) -> Iterator[Flip]:
    """The flipped examples of all comparisons that this variant has a part in."""
    for variant in record.variants:
        for comparison in variant.comparisons:
            if name in (variant.name, comparison.against):
                yield from comparison.flips
