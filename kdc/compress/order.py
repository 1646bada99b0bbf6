"""Which passes can follow which: orders that cannot work, told before anything is trained, and odd ones that can.

A recovery belongs after the last pass that takes something away, and quantizers come last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kdc.compress.base import Pass
from kdc.compress.gradual import Gradual
from kdc.compress.mask_search import MaskSearch
from kdc.compress.merge import Merge
from kdc.compress.prune_layers import PruneLayers
from kdc.compress.quantizer import Quantizer
from kdc.compress.share import Share
from kdc.compress.svd import Svd

NATURAL: Mapping[str, tuple[type[Pass], ...]] = {
    "merge": (Merge,), "prune": (Gradual, MaskSearch, PruneLayers), "factorize": (Svd,), "share": (Share,),
}  # fmt: skip


def impossible(steps: Mapping[str, Pass]) -> Iterator[str]:
    """What cannot work, and which order would."""
    planned: str | None = None
    split: str | None = None
    quantized = False
    for key, step in steps.items():
        before = steps[split] if split is not None else None
        if step.cuts_units and split is not None:
            yield f"compress: {key} cuts outputs of linears, which {split} before it has split; put {key} first"
        if isinstance(step, PruneLayers) and isinstance(before, Share):
            yield f"compress: {key} tells layers apart, which {split} before it has made one; put {key} first"
        if isinstance(step, Share) and isinstance(before, Svd) and step.start == "mean":
            yield f"compress.{key}.start=mean: {split} has factorized the layers; put {key} first, or take first"
        split = key if step.splits_linears else split
        if step.changes_weights and planned is not None:
            yield f"compress: {key} changes weights, which {planned} before it has quantized; put {key} first"
        quantized |= isinstance(step, Quantizer)
        if step.edits_plan and not quantized:
            yield f"compress: {key} changes what a quantizer planned; put one before it, e.g. compress='[int8,{key}]'"
        planned = key if step.precision is not None else planned


def odd(steps: Mapping[str, Pass]) -> Iterator[str]:
    """What works and is seldom meant: it is done as it was asked for, and said."""
    latest, before = -1, ""
    recovered: str | None = None
    for key, step in steps.items():
        place = next((number for number, kinds in enumerate(NATURAL.values()) if isinstance(step, kinds)), None)
        if place is None:
            continue
        if place < latest:
            yield f"compress: {key} comes after {before}, as asked for; natural is {', '.join(NATURAL)}, quantize"
        if recovered is not None and step.recovery is None:
            yield f"compress: {key} takes away what nothing recovers: {recovered} has recovered before it"
        if place >= latest:
            latest, before = place, key
        recovered = key if step.recovery is not None else recovered
