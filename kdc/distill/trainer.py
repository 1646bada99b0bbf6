"""The one way to train, teacher and student alike: what a training consists of, made ready, run and recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, set_seed

from kdc import distributed
from kdc.distill.audit import MARK, audits
from kdc.distill.batches import Collator, LengthBuckets, Parts
from kdc.distill.checkpoints import Checkpoints, is_over, newest_checkpoint, restore_sums
from kdc.distill.cohort import Cohort, CohortCollator, cohort
from kdc.distill.distiller import Distiller
from kdc.distill.dropout import bit_dropout
from kdc.distill.loop import Lesson, Loop, arguments
from kdc.distill.masks import KeepZeros
from kdc.distill.settings import TrainConfig
from kdc.distill.terms.base import Term
from kdc.errors import KdcError
from kdc.memory import kept_memory
from kdc.models.build import Built
from kdc.quiet import quiet
from kdc.record import Train

STUDENT = "student"

Progress = Callable[[int, int, str], None]
"""`progress(steps done, steps in all, what to show beside them)`."""


def train(
    built: Built,
    lesson: Lesson,
    terms: Mapping[str, Term],
    settings: TrainConfig,
    *,
    seed: int,
    scratch: Path,
    progress: Progress,
    audit_at: tuple[float, ...] = (),
    keeps_zeros: bool = False,
) -> Train:
    """Train `built.model` in place and leave the weights of its best validation in it.

    A GPU trains where there is one; the model comes back from it. Checkpoints go to `scratch`; if a killed run left
    whole ones there, training goes on from the newest. `audit_at` are the moments (shares of the steps) of loss audits.
    With `keeps_zeros`, weights that were pruned stay pruned.
    """
    set_seed(seed)
    pruned = [KeepZeros(built.model)] if keeps_zeros else []
    encoded = built.encoder.encode(lesson.train)
    buckets = LengthBuckets([built.encoder.length(row) for row in encoded], settings.batch_size, seed=seed)
    targets = lesson.task.targets(lesson.train, encoded) if any(t.needs_labels for t in terms.values()) else None
    steps = max(1, round(settings.epochs * len(buckets)))
    distiller, collator = _pupils(built, lesson, terms, Collator(built.encoder, encoded, targets=targets))
    for one in (built, *lesson.peers.values()):
        if settings.gradient_checkpointing:
            _checkpoint_gradients(one.model)
        if settings.compile:
            one.model.compile(dynamic=True)
    saver = Checkpoints(distiller, progress, settings.checkpoint_seconds)
    alone = distributed.world_size() == 1
    loop = Loop(
        built,
        lesson,
        distiller,
        collator,
        Parts(buckets, accumulate=settings.accumulate, rank=distributed.rank(), world=distributed.world_size()),
        arguments(settings, lesson, steps=steps, epoch_steps=len(buckets), scratch=scratch, seed=seed),
        callbacks=[*pruned, saver, *([EarlyStoppingCallback(settings.patience)] if settings.patience else [])],
        audit_steps={min(round(moment * steps), steps - 1) for moment in audit_at},
        spare_rows=alone and not any("weights" in term.reads for term in terms.values()),
    )
    started = time.perf_counter()
    resumed = newest_checkpoint(scratch)
    if resumed is not None:
        restore_sums(distiller, resumed)
    with quiet(), kept_memory(), nullcontext() if settings.compile else bit_dropout(distiller):
        if resumed is not None and is_over(resumed):
            loop.finish(resumed)
        else:
            loop.train(resume_from_checkpoint=str(resumed) if resumed else None)
    distributed.wait()  # all have read the best checkpoint before rank 0 goes on and deletes it
    seconds = time.perf_counter() - started
    resumed_at = int(resumed.name.rpartition("-")[2]) if resumed else None
    distiller.release().eval()
    for one in (built, *lesson.peers.values()):
        one.model.cpu()  # where passes score and cut it, and exports trace it
    if loop.by_row is not None:
        loop.by_row.release()
    done = loop.state.global_step
    return Train(
        epochs=done / len(buckets),
        steps=done,
        samples_per_second=(done - (resumed_at or 0)) / len(buckets) * len(encoded) / seconds,
        history=[_numbers(row) for row in loop.state.log_history if not {"train_runtime", MARK} & row.keys()],
        resumed_at=resumed_at,
        audit=audits(loop.state.log_history),
    )


def _pupils(
    built: Built, lesson: Lesson, terms: Mapping[str, Term], collator: Collator
) -> tuple[Distiller | Cohort, Collator | CohortCollator]:
    """What is trained and what makes its batches: one student, or several that learn from one another."""
    if not lesson.peers:
        return Distiller(built.model, terms, lesson.outlines), collator
    others = {
        name: Collator(peer.encoder, peer.encoder.encode(lesson.train), targets=None)
        for name, peer in lesson.peers.items()
    }
    return cohort({STUDENT: built, **lesson.peers}, terms), CohortCollator({STUDENT: collator, **others})


def _checkpoint_gradients(model: Any) -> None:
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise KdcError(f"train.gradient_checkpointing: {type(model).__name__} cannot do it", "leave it false")
    with quiet():  # it has a new name, which older versions do not know
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if isinstance(value, int | float)}
