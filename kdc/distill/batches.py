"""Training batches: which rows, bucketed by length, and what of them.

The rows are a pure function of seed, epoch and lengths, so a resumed run sees the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler

from kdc.tasks.base import Encoded, Encoder

POOL_BATCHES = 50
"""Rows are sorted by length within random pools of this many batches: little padding, yet still shuffled."""
IGNORED = -100
"""The label of padding, which cross-entropy passes over."""


class LengthBuckets(Sampler[list[int]]):
    """Batches of row numbers. Every row once an epoch; call `set_epoch` before iterating."""

    def __init__(self, lengths: Sequence[int], batch_size: int, *, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.lengths))
        pool = self.batch_size * POOL_BATCHES
        batches: list[list[int]] = []
        for start in range(0, len(order), pool):
            rows = order[start : start + pool]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            batches += [rows[i : i + self.batch_size].tolist() for i in range(0, len(rows), self.batch_size)]
        random.shuffle(batches)
        return iter(batches)


class Collator:
    """Row numbers -> one batch of tensors: the student's inputs, the labels, the teacher's signals."""

    def __init__(
        self,
        encoder: Encoder,
        encoded: Encoded,
        *,
        targets: np.ndarray | Sequence[np.ndarray] | None,
        signals: Mapping[str, np.ndarray],
    ) -> None:
        self.encoder, self.encoded, self.targets, self.signals = encoder, encoded, targets, signals

    def __call__(self, rows: list[int]) -> dict[str, Any]:
        arrays = self.encoder.collate([self.encoded[row] for row in rows])
        batch: dict[str, Any] = {"inputs": {name: torch.from_numpy(array) for name, array in arrays.items()}}
        if self.targets is not None:
            batch["labels"] = _labels(self.targets, rows)
        if self.signals:
            batch["teacher"] = {name: torch.from_numpy(values[rows]) for name, values in self.signals.items()}
        return batch


def _labels(targets: np.ndarray | Sequence[np.ndarray], rows: list[int]) -> Tensor:
    """Those of one batch, padded to the longest where there is one a token."""
    if isinstance(targets, np.ndarray):
        return torch.from_numpy(targets[rows])
    return pad_sequence([torch.from_numpy(targets[row]) for row in rows], batch_first=True, padding_value=IGNORED)
