"""The one training loop, teacher and student alike: transformers' Trainer over kdc's batches, terms and validation."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from kdc.data.examples import Examples
from kdc.distill.batches import Collator, LengthBuckets
from kdc.distill.distiller import Distiller
from kdc.distill.settings import TrainConfig
from kdc.distill.terms.base import Term
from kdc.errors import KdcError
from kdc.export.base import Arrays
from kdc.export.modules import graph_callables
from kdc.machine import has_bf16
from kdc.models.build import Built
from kdc.quiet import quiet
from kdc.record import Train
from kdc.tasks.base import Encoded, Task
from kdc.tasks.inference import predict_rows

COMPLETE = "complete"
LOGS_PER_TRAINING = 40


@dataclass(frozen=True)
class Lesson:
    """What a model learns from: rows, rows that choose the best epoch, and the teacher's signals if there are any."""

    task: Task
    train: Examples
    validation: Examples
    metric: str
    signals: Arrays = field(default_factory=dict)
    """By name, float32, the rows of train first: `logits` `[rows, classes]`."""


Progress = Callable[[int, int, str], None]
"""`progress(steps done, steps in all, what to show beside them)`."""


def precision_used(settings: TrainConfig) -> str:
    """`bf16` or `fp32`: what `precision: auto` comes to on this machine."""
    if settings.precision != "auto":
        return settings.precision
    on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return "bf16" if on_gpu or (not torch.cuda.is_available() and has_bf16()) else "fp32"


def train(
    built: Built,
    lesson: Lesson,
    terms: Mapping[str, Term],
    settings: TrainConfig,
    *,
    seed: int,
    scratch: Path,
    progress: Progress,
) -> Train:
    """Train `built.model` in place and leave the weights of its best validation in it.

    Checkpoints go to `scratch`; if a killed run left whole ones there, training goes on from the newest.
    """
    set_seed(seed)
    encoded = built.encoder.encode(lesson.train)
    sampler = LengthBuckets([built.encoder.length(row) for row in encoded], settings.batch_size, seed=seed)
    targets = lesson.task.targets(lesson.train, encoded) if any(t.needs_labels for t in terms.values()) else None
    steps = max(1, round(settings.epochs * len(sampler)))
    distiller = Distiller(built.model, terms)
    trainer = _Trainer(
        model=distiller,
        args=_arguments(settings, lesson, steps=steps, epoch_steps=len(sampler), scratch=scratch, seed=seed),
        train_dataset=_Rows(len(encoded)),
        eval_dataset=_Rows(len(lesson.validation)),
        data_collator=Collator(built.encoder, encoded, targets=targets, signals=lesson.signals),
        callbacks=[_Watcher(progress, settings.checkpoint_seconds)],
    )
    trainer.sampler, trainer.distiller, trainer.built, trainer.lesson = sampler, distiller, built, lesson
    trainer.validation = built.encoder.encode(lesson.validation)
    trainer.remove_callback(PrinterCallback)
    started = time.perf_counter()
    resumed = _newest_checkpoint(scratch)
    with quiet():
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    seconds = time.perf_counter() - started
    resumed_at = int(resumed.name.rpartition("-")[2]) if resumed else None
    built.model.eval()
    return Train(
        epochs=settings.epochs,
        steps=steps,
        samples_per_second=(steps - (resumed_at or 0)) / len(sampler) * len(encoded) / seconds,
        history=[{k: v for k, v in row.items() if isinstance(v, int | float)} for row in trainer.state.log_history],
        resumed_at=resumed_at,
    )


def _arguments(
    settings: TrainConfig, lesson: Lesson, *, steps: int, epoch_steps: int, scratch: Path, seed: int
) -> TrainingArguments:
    interval = max(1, min(steps, epoch_steps // settings.evaluations))
    return TrainingArguments(
        output_dir=str(scratch),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=float(settings.learning_rate),
        weight_decay=settings.weight_decay,
        warmup_steps=round(settings.warmup_ratio * steps),
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=precision_used(settings) == "bf16",
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="steps",
        eval_steps=interval,
        save_strategy="steps",
        save_steps=interval,
        load_best_model_at_end=True,
        metric_for_best_model=lesson.metric,
        greater_is_better=lesson.task.metrics[lesson.metric],
        logging_steps=max(1, steps // LOGS_PER_TRAINING),
        seed=seed,
        data_seed=seed,
        disable_tqdm=True,
        report_to=[],
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        label_names=["labels"],
    )


class _Rows(Dataset[int]):
    """Row numbers; the collator knows what stands in the rows."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> int:
        return row


class _Trainer(Trainer):
    """Trainer with kdc's sampler, kdc's validation (the task's own loop and metrics) and the terms in its log."""

    sampler: LengthBuckets
    distiller: Distiller
    built: Built
    lesson: Lesson
    validation: Encoded

    def get_train_dataloader(self) -> DataLoader[int]:
        loader: DataLoader[int] = DataLoader(
            _Rows(len(self.lesson.train)), batch_sampler=self.sampler, collate_fn=self.data_collator
        )
        return self.accelerator.prepare(loader)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        rows = self.lesson.validation
        self.built.model.eval()
        graphs = graph_callables(self.lesson.task.graphs(self.built.model, self.built.encoder, rows.select([0, 0])))
        outputs = predict_rows(self.lesson.task, graphs, self.built.encoder, self.validation)
        scores = self.lesson.task.score(outputs, rows)
        metrics = {f"eval_{name}": value for name, value in scores.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            means = self.distiller.drain()
            logs |= means
            if term := next((key for key, value in means.items() if not math.isfinite(value)), None):
                raise KdcError(
                    f"training diverged: {term} is {logs[term]} at step {self.state.global_step}",
                    "lower train.learning_rate or take train.precision=fp32",
                    exit_code=1,
                )
        super().log(logs, start_time)


class _Watcher(TrainerCallback):
    """Tells the progress bar, checkpoints by the clock, and marks checkpoints whose writing was finished."""

    def __init__(self, progress: Progress, seconds: float) -> None:
        self.progress, self.seconds, self.saved_at = progress, seconds, time.monotonic()
        self.score = ""

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.progress(state.global_step, state.max_steps, self.score)
        if time.monotonic() - self.saved_at > self.seconds:
            control.should_save = True

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        metric = f"eval_{args.metric_for_best_model}"
        if logs and metric in logs:
            self.score = f"validation {args.metric_for_best_model} {logs[metric]:.4f}"

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep this checkpoint and the best one. Trainer would delete the others before this one counts as whole."""
        self.saved_at = time.monotonic()
        kept = {f"checkpoint-{step}" for step in (state.global_step, state.best_global_step)}
        Path(args.output_dir, f"checkpoint-{state.global_step}", COMPLETE).touch()
        for folder in Path(args.output_dir).glob("checkpoint-*"):
            if folder.name not in kept:
                (folder / COMPLETE).unlink(missing_ok=True)  # first, so that half of it never passes for whole
                shutil.rmtree(folder)


def _newest_checkpoint(scratch: Path) -> Path | None:
    """The last whole checkpoint; ones that a kill left half-written are deleted."""
    whole = []
    for folder in scratch.glob("checkpoint-*"):
        if (folder / COMPLETE).exists():
            whole.append(folder)
        else:
            shutil.rmtree(folder)
    return max(whole, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)
