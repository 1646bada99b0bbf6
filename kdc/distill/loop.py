"""transformers' Trainer over kdc's batches, kdc's validation, and the terms in its log."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from kdc import distributed
from kdc.data.examples import Examples
from kdc.distill.audit import MARK, audit
from kdc.distill.batches import Collator, Parts, Rows
from kdc.distill.checkpoints import state_of
from kdc.distill.cohort import Cohort, CohortCollator
from kdc.distill.distiller import Distiller
from kdc.distill.optimizer import RowAdamW, word_embedding
from kdc.distill.settings import TrainConfig
from kdc.distill.signals import Source, on_device
from kdc.distill.terms.rows import standing_in
from kdc.distill.trackers import PROJECT
from kdc.errors import KdcError
from kdc.export.modules import graph_callables
from kdc.machine import has_bf16
from kdc.models.build import Built
from kdc.models.taps import Outline
from kdc.tasks.base import Task
from kdc.tasks.inference import predict_rows

LOGS_PER_TRAINING = 40


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


def precision_used(settings: TrainConfig) -> str:
    """`bf16`, `fp16` or `fp32`: what `precision: auto` comes to on this machine."""
    if settings.precision == "fp16" and not torch.cuda.is_available():
        raise KdcError("train.precision=fp16 needs a GPU", "take train.precision=auto, which is bf16 where it is fast")
    if settings.precision != "auto":
        return settings.precision
    on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return "bf16" if on_gpu or (not torch.cuda.is_available() and has_bf16()) else "fp32"


def arguments(
    settings: TrainConfig, lesson: Lesson, *, steps: int, epoch_steps: int, scratch: Path, seed: int
) -> TrainingArguments:
    interval = max(1, min(steps, round(epoch_steps / settings.evaluations)))
    precision = precision_used(settings)
    made = TrainingArguments(
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
    if made.n_gpu > 1:
        made._n_gpu = 1  # more GPUs are for more processes: DataParallel would copy the Distiller and its sums
    return made


class Loop(Trainer):
    """Trainer with kdc's batches, kdc's validation (the task's own loop and metrics) and the terms in its log."""

    by_row: RowAdamW | None = None

    def __init__(
        self,
        built: Built,
        lesson: Lesson,
        distiller: Distiller | Cohort,
        collator: Collator | CohortCollator,
        parts: Parts,
        arguments: TrainingArguments,
        *,
        callbacks: Sequence[TrainerCallback] = (),
        audit_steps: Collection[int] = (),
        spare_rows: bool = False,
    ) -> None:
        """`spare_rows`: the embeddings may be trained row by row."""
        self.built, self.lesson, self.distiller, self.parts = built, lesson, distiller, parts
        self.validation = built.encoder.encode(lesson.validation)
        self.audit_steps, self.spare_rows = set(audit_steps), spare_rows
        super().__init__(
            model=distiller,
            args=arguments,
            train_dataset=Rows(len(lesson.train)),
            eval_dataset=Rows(len(lesson.validation)),
            data_collator=collator,  # type: ignore[arg-type]  # takes parts
            callbacks=list(callbacks),
        )
        self.remove_callback(PrinterCallback)

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

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Weights that layers share have several names, and a file takes no tensor twice: the others are copies."""
        weights = self.distiller.state_dict() if state_dict is None else state_dict
        met: set[int] = set()
        apart = {}
        for name, weight in weights.items():
            apart[name] = weight.clone() if weight.data_ptr() in met else weight
            met.add(weight.data_ptr())
        super()._save(output_dir, apart)

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
