"""What a teacher says about rows: asked batch by batch, or computed once and found again by the rows' content.

Both are a `Source`: row numbers of the training split -> signals as `kdc.models.taps` describes them, padded to the
longest row, on the CPU or wherever the teacher is. Layered signals are tuples as long as the model has layers, with
None for those that nobody wants.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdc import distributed
from kdc.data.examples import Examples
from kdc.distill.terms.base import Term
from kdc.memory import kept_memory
from kdc.models.build import Built
from kdc.models.taps import LAYERED, Outline, Taps
from kdc.tasks.base import Encoded, Encoder

BATCH_SIZE = 128
IDS, SIZES, CONTENTS = "ids.npy", "sizes.npy", "signals.json"

Wanted = Mapping[str, Sequence[int]]
"""The signals to bring; of layered ones the layers, as the signal counts them."""
Source = Callable[[Sequence[int]], dict[str, Any]]


def wanted_signals(terms: Iterable[Term], student: Outline, teacher: Outline) -> dict[str, list[int]]:
    """All that these terms read of the teacher."""
    layers: dict[str, set[int]] = {}
    for term in terms:
        own = term.layers(student, teacher)
        for signal in term.asks_of_teacher:
            everything = range(len(teacher.shapes[signal])) if signal in LAYERED else ()
            layers.setdefault(signal, set()).update(own.get(signal, everything))
    return {signal: sorted(layers[signal]) for signal in sorted(layers)}


def content_key(examples: Examples) -> str:
    """Hash of the set of row contents: rows in another order, or a row twice, make no difference."""
    digest = hashlib.sha256()
    for row in sorted(set(examples.ids)):
        digest.update(row.encode())
    return digest.hexdigest()


class OnlineSignals:
    """Asks the teacher for every batch anew, in float32 whatever the student computes in."""

    def __init__(self, teacher: Built, encoded: Encoded, wanted: Wanted) -> None:
        self.encoder, self.encoded, self.wanted = teacher.encoder, encoded, wanted
        self.model = teacher.model.to(distributed.device()).eval()
        self._taps = Taps(self.model, wanted)

    def __call__(self, rows: Sequence[int]) -> dict[str, Any]:
        device = next(self.model.parameters()).device
        arrays = self.encoder.collate([self.encoded[row] for row in rows])
        inputs = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            said = self._taps(inputs)
        return {signal: _only(said[signal], layers) for signal, layers in self.wanted.items()}

    def close(self) -> None:
        """Take the hooks out of the model and bring it back to the CPU."""
        self._taps.close()
        self.model.cpu()


class CachedSignals:
    """Reads what `compute_signals` wrote, memory-mapped: a batch costs its own bytes alone."""

    def __init__(self, folder: Path, examples: Examples) -> None:
        ids = np.load(folder / IDS)
        wanted = np.array(examples.ids)
        found = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
        if not np.array_equal(ids[found], wanted):
            raise LookupError("the teacher's cached signals do not cover these rows")
        self._found = found
        self._sizes = np.load(folder / SIZES)
        self._contents = json.loads((folder / CONTENTS).read_text(encoding="utf-8"))
        self._parts = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.*.npy")}
        powers = {contents["token_axes"] for contents in self._contents.values()}
        self._starts = {power: np.concatenate([[0], np.cumsum(self._sizes**power)]) for power in powers}

    def __call__(self, rows: Sequence[int]) -> dict[str, Any]:
        picked = self._found[np.asarray(rows)]
        return {signal: self._signal(signal, picked) for signal in self._contents}

    def _signal(self, signal: str, picked: np.ndarray) -> Any:
        contents = self._contents[signal]
        if contents["top_k"]:
            values, classes, rest = (self._parts[f"{signal}.{part}"][picked] for part in TOP_PARTS)
            return _from_top(values, classes, rest, contents["classes"])
        if signal not in LAYERED:
            return self._read(f"{signal}.0", contents["token_axes"], picked)
        layers = {
            layer: self._read(f"{signal}.{layer}", contents["token_axes"], picked) for layer in contents["layers"]
        }
        return tuple(layers.get(layer) for layer in range(contents["depth"]))

    def _read(self, part: str, power: int, picked: np.ndarray) -> Tensor:
        """`[rows, ...]`; texts' rows padded with zeros to the longest."""
        values = self._parts[part]
        if power == 0:
            return torch.from_numpy(values[picked])
        starts, sizes = self._starts[power], self._sizes[picked]
        longest = int(sizes.max())
        inner = values.shape[1:]
        shape = (len(picked), longest, *inner) if power == 1 else (len(picked), *inner, longest, longest)
        padded = np.zeros(shape, dtype=values.dtype)
        for i, (row, size) in enumerate(zip(picked, sizes, strict=True)):
            flat = values[starts[row] : starts[row] + size**power]
            if power == 1:
                padded[i, :size] = flat
            else:
                padded[i, ..., :size, :size] = np.moveaxis(flat.reshape(size, size, *inner), (0, 1), (-2, -1))
        return torch.from_numpy(padded)


TOP_PARTS = ("values", "classes", "rest")


def compute_signals(
    teacher: Built,
    examples: Examples,
    folder: Path,
    wanted: Wanted,
    *,
    advance: Callable[[int], Any],
    top_k: int | None = None,
    batches: Sequence[Sequence[int]] | None = None,
) -> None:
    """Write the signals of all distinct rows into `folder`, float32, for `CachedSignals`.

    `batches` of row numbers say which rows are computed together (default: those of like length). With `top_k` only
    the largest logits of a row are kept, beside the logarithm of what all others sum up to.
    """
    first: dict[str, int] = {}
    for row, content in enumerate(examples.ids):
        first.setdefault(content, row)
    ids = np.array(sorted(first))
    encoded = teacher.encoder.encode(examples)
    sizes = np.array([teacher.encoder.length(encoded[first[content]]) for content in ids])
    np.save(folder / IDS, ids)
    np.save(folder / SIZES, sizes)
    place = {first[content]: number for number, content in enumerate(ids)}
    has_tokens = "attention_mask" in teacher.encoder.collate(encoded[:1])
    writer = _Writer(folder, sizes if has_tokens else None, len(ids), wanted, top_k)
    source = OnlineSignals(teacher, encoded, wanted)
    with kept_memory(), closing(source):
        for rows in batches if batches is not None else _of_like_length(list(place), teacher.encoder, encoded):
            said = source(rows)
            for i, row in enumerate(rows):
                if row in place:
                    writer.write(place[row], {signal: _row(value, i) for signal, value in said.items()})
            advance(len(rows))
    writer.close()


class _Writer:
    """Files `<signal>.<layer>.npy`, opened when their first row shows their shape."""

    def __init__(self, folder: Path, sizes: np.ndarray | None, rows: int, wanted: Wanted, top_k: int | None) -> None:
        self.folder, self.sizes, self.rows, self.wanted, self.top_k = folder, sizes, rows, wanted, top_k
        self._files: dict[str, np.ndarray] = {}
        self._contents: dict[str, Any] = {}
        lengths = np.ones(rows, dtype=np.int64) if sizes is None else sizes
        self._starts = {power: np.concatenate([[0], np.cumsum(lengths**power)]) for power in (0, 1, 2)}

    def write(self, row: int, said: Mapping[str, Any]) -> None:
        """One row of every signal, as its batch padded it."""
        for signal, value in said.items():
            if signal == "logits" and self.top_k is not None and value.ndim == 1 and self.top_k < len(value):
                self._write_top(signal, row, value)
            elif isinstance(value, tuple):
                for layer in self.wanted[signal]:
                    self._write(signal, layer, row, value[layer], depth=len(value))
            else:
                self._write(signal, 0, row, value)

    def close(self) -> None:
        for file in self._files.values():
            file.flush()  # type: ignore[attr-defined]  # a memmap, which numpy types as an array
        (self.folder / CONTENTS).write_text(json.dumps(self._contents, indent=2) + "\n", encoding="utf-8")

    def _write(self, signal: str, layer: int, row: int, value: Tensor, depth: int = 0) -> None:
        array = value.float().cpu().numpy()
        power = 0 if self.sizes is None else _token_axes(signal, array)
        if self.sizes is None or power == 0:
            array = array[None]
        elif power == 1:
            array = array[: self.sizes[row]]
        else:
            size = int(self.sizes[row])
            array = np.moveaxis(array[..., :size, :size], (-2, -1), (0, 1)).reshape(size * size, *array.shape[:-2])
        if signal not in self._contents:
            self._contents[signal] = {
                "token_axes": power, "layers": list(self.wanted[signal]), "depth": depth, "top_k": None,
            }  # fmt: skip
        starts = self._starts[power]
        file = self._file(f"{signal}.{layer}", (int(starts[-1]), *array.shape[1:]), np.float32)
        file[starts[row] : starts[row + 1]] = array

    def _write_top(self, signal: str, row: int, value: Tensor) -> None:
        logits = value.float().cpu()
        top, classes = logits.topk(self.top_k)  # type: ignore[arg-type]
        rest = logits.clone()
        rest[classes] = -torch.inf
        self._contents[signal] = {
            "token_axes": 0,
            "layers": [],
            "depth": 0,
            "top_k": self.top_k,
            "classes": len(logits),
        }
        self._file(f"{signal}.values", (self.rows, len(top)), np.float32)[row] = top.numpy()
        self._file(f"{signal}.classes", (self.rows, len(top)), np.int32)[row] = classes.numpy()
        self._file(f"{signal}.rest", (self.rows,), np.float32)[row] = float(rest.logsumexp(0))

    def _file(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        if name not in self._files:
            path = self.folder / f"{name}.npy"
            self._files[name] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        return self._files[name]


def signal_bytes(teacher: Outline, wanted: Wanted, tokens: float) -> float:
    """About how much disk these signals of one row take, at so many tokens a row (0: rows have no tokens)."""
    total = 0.0
    for signal, layers in wanted.items():
        for layer in layers or (0,):
            shape = teacher.shapes[signal][layer][1:]
            if tokens and signal == "attentions":
                total += 4 * shape[0] * tokens**2
            elif tokens and len(shape) == 2:
                total += 4 * tokens * shape[1]
            else:
                total += 4 * math.prod(shape)
    return total


def on_device(signals: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The same signals where the student is."""

    def move(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(move(part) for part in value)
        return value if value is None else value.to(device, non_blocking=True)

    return {name: move(value) for name, value in signals.items()}


def _only(value: Any, layers: Sequence[int]) -> Any:
    if not isinstance(value, tuple):
        return value.detach()
    return tuple(part.detach() if layer in layers else None for layer, part in enumerate(value))


def _row(value: Any, number: int) -> Any:
    if isinstance(value, tuple):
        return tuple(None if part is None else part[number] for part in value)
    return value[number]


def _token_axes(signal: str, row: np.ndarray) -> int:
    """How many axes of a text row's signal are as long as the text: `[heads, length, length]`, `[length, width]`."""
    if signal == "attentions":
        return 2
    return 1 if row.ndim == 2 else 0


def _from_top(values: np.ndarray, classes: np.ndarray, rest: np.ndarray, count: int) -> Tensor:
    """Logits `[rows, count]` with the largest as they were and the others alike, of the same sum of exponentials."""
    others = rest - np.log(count - values.shape[1])
    logits = np.repeat(others[:, None], count, axis=1).astype(np.float32)
    np.put_along_axis(logits, classes.astype(np.int64), values, axis=1)
    return torch.from_numpy(logits)


def _of_like_length(rows: list[int], encoder: Encoder, encoded: Encoded) -> list[list[int]]:
    """Batches, the longest rows first, so that a lack of memory shows at once."""
    ordered = sorted(rows, key=lambda row: encoder.length(encoded[row]), reverse=True)
    return [ordered[start : start + BATCH_SIZE] for start in range(0, len(ordered), BATCH_SIZE)]
