"""The one training loop, teacher and student alike: transformers' Trainer over kdc's batches, terms and validation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from kdc import distributed
from kdc.data.examples import Examples
from kdc.distill.audit import MARK, audit, audits
from kdc.distill.batches import Collator, LengthBuckets, Parts, Rows
from kdc.distill.checkpoints import Checkpoints, is_over, newest_checkpoint, restore_sums, state_of
from kdc.distill.cohort import Cohort, CohortCollator, cohort
from kdc.distill.distiller import Distiller
from kdc.distill.dropout import bit_dropout
from kdc.distill.optimizer import RowAdamW, word_embedding
from kdc.distill.settings import TrainConfig
from kdc.distill.signals import Source, on_device
from kdc.distill.terms.base import Term
from kdc.distill.terms.rows import standing_in
from kdc.distill.trackers import PROJECT
from kdc.errors import KdcError
from kdc.export.modules import graph_callables
from kdc.machine import has_bf16
from kdc.memory import kept_memory
from kdc.models.build import Built
from kdc.models.taps import Outline
from kdc.quiet import quiet
from kdc.record import Train
from kdc.tasks.base import Encoded, Task
from kdc.tasks.inference import predict_rows

LOGS_PER_TRAINING = 40
STUDENT = "student"


@dataclass(frozen=True)
class Lesson:
    """What a model learns from: rows, rows that choose the best epoch, and the teacher's signals if there are any.

    `source` gives the signals of rows of `train` by their numbers; `outlines` are the student's and the teacher's.
    """

    task: Task
    train: Examples
    validation: Examples
    metric: str
    source: Source | None = None
    outlines: tuple[Outline, Outline] | None = None
    peers: Mapping[str, Built] = field(default_factory=dict)
    """Students that train along, by name, each learning from all others instead of a teacher."""
    name: str = "student"
    """What trackers call this training."""


Progress = Callable[[int, int, str], None]
"""`progress(steps done, steps in all, what to show beside them)`."""


def precision_used(settings: TrainConfig) -> str:
    """`bf16`, `fp16` or `fp32`: what `precision: auto` comes to on this machine."""
    if settings.precision == "fp16" and not torch.cuda.is_available():
        raise KdcError("train.precision=fp16 needs a GPU", "take train.precision=auto, which is bf16 where it is fast")
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
    audit_at: tuple[float, ...] = (),
) -> Train:
    """Train `built.model` in place and leave the weights of its best validation in it.

    Checkpoints go to `scratch`; if a killed run left whole ones there, training goes on from the newest. `audit_at`
    are the moments (shares of the steps) of loss audits.
    """
    set_seed(seed)
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
    trainer = _Trainer(
        model=distiller,
        args=_arguments(settings, lesson, steps=steps, epoch_steps=len(buckets), scratch=scratch, seed=seed),
        train_dataset=Rows(len(encoded)),
        eval_dataset=Rows(len(lesson.validation)),
        data_collator=collator,  # type: ignore[arg-type]  # takes parts
        callbacks=[saver, *([EarlyStoppingCallback(settings.patience)] if settings.patience else [])],
    )
    trainer.parts = Parts(
        buckets, accumulate=settings.accumulate, rank=distributed.rank(), world=distributed.world_size()
    )
    trainer.distiller, trainer.built, trainer.lesson = distiller, built, lesson
    trainer.validation = built.encoder.encode(lesson.validation)
    trainer.audit_steps = {min(round(moment * steps), steps - 1) for moment in audit_at}
    trainer.spare_rows = distributed.world_size() == 1 and not any("weights" in term.reads for term in terms.values())
    trainer.remove_callback(PrinterCallback)
    started = time.perf_counter()
    resumed = newest_checkpoint(scratch)
    if resumed is not None:
        restore_sums(distiller, resumed)
    with quiet(), kept_memory(), nullcontext() if settings.compile else bit_dropout(distiller):
        if resumed is not None and is_over(resumed):
            trainer.finish(resumed)
        else:
            trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    distributed.wait()  # all have read the best checkpoint before rank 0 goes on and deletes it
    seconds = time.perf_counter() - started
    resumed_at = int(resumed.name.rpartition("-")[2]) if resumed else None
    distiller.release().eval()
    if trainer.by_row is not None:
        trainer.by_row.release()
    done = trainer.state.global_step
    return Train(
        epochs=done / len(buckets),
        steps=done,
        samples_per_second=(done - (resumed_at or 0)) / len(buckets) * len(encoded) / seconds,
        history=[_numbers(row) for row in trainer.state.log_history if not {"train_runtime", MARK} & row.keys()],
        resumed_at=resumed_at,
        audit=audits(trainer.state.log_history),
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


def _arguments(
    settings: TrainConfig, lesson: Lesson, *, steps: int, epoch_steps: int, scratch: Path, seed: int
) -> TrainingArguments:
    interval = max(1, min(steps, round(epoch_steps / settings.evaluations)))
    precision = precision_used(settings)
    arguments = TrainingArguments(
        output_dir=str(scratch),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=float(settings.learning_rate),
        weight_decay=settings.weight_decay,
        warmup_steps=round(settings.warmup_ratio * steps),
        lr_scheduler_type="constant_with_warmup" if settings.schedule == "constant" else settings.schedule,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch_fused",
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="steps",
        eval_steps=interval,
        save_strategy="steps",
        save_steps=interval,
        load_best_model_at_end=True,
        restore_callback_states_from_checkpoint=True,  # how long early stopping has been patient
        metric_for_best_model=lesson.metric,
        greater_is_better=lesson.task.metrics[lesson.metric],
        logging_steps=max(1, steps // LOGS_PER_TRAINING),
        logging_nan_inf_filter=False,  # it would wait for the device at every step; `log` looks anyway
        seed=seed + distributed.rank(),  # no two processes drop out the same
        data_seed=seed,
        disable_tqdm=True,
        report_to=list(settings.trackers) if distributed.rank() == 0 else [],
        run_name=lesson.name,
        project=PROJECT,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=True,
        label_names=["labels"],
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # more GPUs are for more processes: DataParallel would copy the Distiller and its sums
    return arguments


class _Trainer(Trainer):
    """Trainer with kdc's batches, kdc's validation (the task's own loop and metrics) and the terms in its log."""

    parts: Parts
    distiller: Distiller | Cohort
    built: Built
    lesson: Lesson
    validation: Encoded
    audit_steps: set[int]
    spare_rows: bool
    """Whether the embeddings may be trained row by row."""
    by_row: RowAdamW | None = None

    def get_train_dataloader(self) -> DataLoader[Any]:
        # not prepared by accelerate, which would deal the parts out once more
        sampler: Any = self.parts
        return DataLoader(Rows(len(self.lesson.train)), batch_sampler=sampler, collate_fn=self.data_collator)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor | tuple[Tensor, Any]:
        part = inputs["part"]
        teacher = on_device(self.lesson.source(part.rows), self.args.device) if self.lesson.source else None
        self.distiller.progress = self.state.global_step / self.state.max_steps
        with standing_in(yes=part.share == 0):
            if self.state.global_step in self.audit_steps:
                self.audit_steps.discard(self.state.global_step)
                seen = audit(self.distiller, inputs["inputs"], inputs.get("labels"), teacher, part.share)
                self.state.log_history.append({MARK: seen, "step": self.state.global_step})  # type: ignore[dict-item]
            outputs = model(inputs["inputs"], inputs.get("labels"), teacher, part.share)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def finish(self, checkpoint: Path) -> None:
        """Take over a training that was at its end when it was killed."""
        self.state = state_of(checkpoint)
        self._load_best_model()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        if self.by_row is not None:
            self.by_row.finish()  # the checkpoint of this step may be the one that is kept
        # rank 0's word is all ranks': were theirs to differ, they would part ways
        scores = distributed.broadcast(self._scores() if distributed.rank() == 0 else None)
        metrics = {f"eval_{name}": value for name, value in scores.items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW; on one CPU process a kind that spares the rows of the vocabulary that a batch does not have."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        embedding = word_embedding(self.built.model) if self.spare_rows else None
        if embedding is None:
            return optimizer
        groups = [{key: group[key] for key in ("params", "weight_decay")} for group in optimizer.param_groups]
        settings = {key: optimizer.defaults[key] for key in ("lr", "betas", "eps")}
        self.optimizer = self.by_row = RowAdamW(groups, embedding, steps=self.args.max_steps, **settings)
        return self.by_row

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        if self.by_row is not None:
            return self.by_row.clip(self.args.max_grad_norm)
        norm: Tensor = super()._clip_grad_norm(model)
        return norm

    def _scores(self) -> dict[str, float]:
        task, rows = self.lesson.task, self.lesson.validation
        self.built.model.eval()
        graphs = graph_callables(task.graphs(self.built.model, self.built.encoder, rows.select([0, 0])))
        return task.score(predict_rows(task, graphs, self.built.encoder, self.validation), rows)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            means = self.distiller.drain()
            logs |= means
            named = sorted(means, key=lambda key: key == "loss")  # a term rather than their sum
            if term := next((key for key in named if not math.isfinite(means[key])), None):
                raise KdcError(
                    f"training diverged: {term} is {logs[term]} at step {self.state.global_step}",
                    "lower train.learning_rate or take train.precision=fp32",
                    exit_code=1,
                )
        super().log(logs, start_time)
