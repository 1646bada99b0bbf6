"""Checkpoints of a training: written by the clock, marked once whole, and complete down to the sums behind its log."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from kdc import distributed
from kdc.distill.cohort import Cohort
from kdc.distill.distiller import Distiller

COMPLETE, SUMS = "complete", "sums.json"
STEPS_BETWEEN_LOOKS = 10
"""Several processes agree so often on whether it is time for a checkpoint."""


class Checkpoints(TrainerCallback):
    """Tells the progress bar, checkpoints by the clock, and marks checkpoints whose writing was finished."""

    def __init__(
        self, distiller: Distiller | Cohort, progress: Callable[[int, int, str], None], seconds: float
    ) -> None:
        self.distiller, self.progress, self.seconds = distiller, progress, seconds
        self.saved_at = time.monotonic()
        self.score = ""

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.progress(state.global_step, state.max_steps, self.score)
        due = time.monotonic() - self.saved_at > self.seconds
        if distributed.world_size() > 1:
            due = state.global_step % STEPS_BETWEEN_LOOKS == 0 and bool(distributed.broadcast(due))
        if due:
            control.should_save = True

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        metric = f"eval_{args.metric_for_best_model}"
        if logs and metric in logs:
            self.score = f"validation {args.metric_for_best_model} {logs[metric]:.4f}"

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep this checkpoint and the best one. Trainer would delete the others before this one counts as whole."""
        self.saved_at = time.monotonic()
        sums = self.distiller.sums()
        distributed.wait()  # each process has written its random state
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        (folder / SUMS).write_text(json.dumps(sums), encoding="utf-8")
        (folder / COMPLETE).touch()
        kept = {f"checkpoint-{step}" for step in (state.global_step, state.best_global_step)}
        for folder in Path(args.output_dir).glob("checkpoint-*"):
            if folder.name not in kept:
                (folder / COMPLETE).unlink(missing_ok=True)  # first, so that half of it never passes for whole
                shutil.rmtree(folder)


def newest_checkpoint(scratch: Path) -> Path | None:
    """The last whole checkpoint; ones that a kill left half-written are deleted."""
    if distributed.rank() > 0:
        told: Path | None = distributed.broadcast()
        return told
    whole = []
    for folder in scratch.glob("checkpoint-*"):
        if (folder / COMPLETE).exists():
            whole.append(folder)
        else:
            shutil.rmtree(folder)
    newest = max(whole, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)
    distributed.broadcast(newest)
    return newest


def state_of(checkpoint: Path) -> TrainerState:
    """Where the training stood."""
    state: TrainerState = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    return state


def is_over(checkpoint: Path) -> bool:
    """Whether nothing was left to train: Trainer would go on for a step, even after one that it stopped early."""
    callbacks: Any = state_of(checkpoint).stateful_callbacks
    return bool(callbacks["TrainerControl"]["args"]["should_training_stop"])


def restore_sums(distiller: Distiller | Cohort, checkpoint: Path) -> None:
    """Go on with the sums of the step that was checkpointed, so that the next log says what it would have said."""
    distiller.restore(json.loads((checkpoint / SUMS).read_text(encoding="utf-8")))
