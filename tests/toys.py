"""Two tasks that kdc does not ship, to hold its interfaces to what comes later: a decoder of two graphs, a tagger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig

from kdc.data.examples import Examples, Splits
from kdc.export.base import Arrays, Callables, Graph, Port, Signature
from kdc.export.modules import SelectOutputs, call_on_arrays
from kdc.tasks.base import TASKS, Encoded, Encoder, Task
from kdc.tasks.text import TextEncoder

VOCABULARY, WIDTH, HEADS, LAYERS, POSITIONS, NEW_TOKENS = 90, 32, 2, 2, 48, 8
SIZE = WIDTH // HEADS


class Decoder(nn.Module):
    """A causal language model without any help from `transformers`; `forward` is the plain way, without a cache."""

    def __init__(self) -> None:
        super().__init__()
        self.config = PreTrainedConfig()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.blocks = nn.ModuleList(_Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids: Tensor) -> Tensor:
        mask = torch.ones_like(input_ids)
        return self.run(input_ids, mask, mask.cumsum(-1) - 1, None)[0]

    def run(
        self, input_ids: Tensor, mask: Tensor, positions: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits `[B, N, V]` of N new tokens after `past` ones; keys and values `[B, layers, heads, past + N, size]`.

        `mask` `[B, past + N]` is 1 where there is a token.
        """
        new, total = input_ids.shape[1], mask.shape[1]
        causal = torch.ones(new, total, dtype=torch.bool).tril(diagonal=total - new)
        seen = causal & mask.bool()[:, None, None, :]  # [B, 1, N, past + N]
        hidden = self.tokens(input_ids) + self.positions(positions)
        keys, values = [], []
        for i, block in enumerate(self.blocks):
            hidden, key, value = block(hidden, seen, None if past is None else (past[0][:, i], past[1][:, i]))
            keys.append(key)
            values.append(value)
        return self.head(self.norm(hidden)), torch.stack(keys, dim=1), torch.stack(values, dim=1)


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.feed = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH))

    def forward(
        self, hidden: Tensor, seen: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = (
            part.unflatten(-1, (HEADS, SIZE)).transpose(1, 2) for part in self.qkv(self.norm(hidden)).chunk(3, dim=-1)
        )  # [B, heads, N, size]
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        hidden = hidden + self.out(mixed.transpose(1, 2).flatten(2))
        return hidden + self.feed(hidden), key, value


class Prefill(nn.Module):
    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        return self.model.run(input_ids, attention_mask, positions, None)


class Step(nn.Module):
    """One token after the cache; `attention_mask` is the cache's own, `[batch, past]`."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, past_keys: Tensor, past_values: Tensor
    ) -> tuple[Tensor, ...]:
        mask = torch.cat([attention_mask, torch.ones_like(input_ids)], dim=1)
        return self.model.run(input_ids, mask, attention_mask.sum(-1, keepdim=True), (past_keys, past_values))


@TASKS.register("toy-decoder")
class ToyDecoder(Task):
    """Greedy continuation by `NEW_TOKENS` tokens, with a cache."""

    name: ClassVar[str] = "toy-decoder"
    modality: ClassVar[str] = "text"
    encoder: ClassVar[type[Encoder]] = TextEncoder
    metrics: ClassVar[Mapping[str, bool]] = {"exact": True}
    columns: ClassVar[tuple[str, ...]] = ("text",)

    def check(self, splits: Splits, metric: str) -> None: ...

    def model_class(self) -> Any:
        return Decoder

    def graphs(self, model: nn.Module, encoder: Encoder, sample: Examples) -> list[Graph]:
        def cache(axis: str, prefix: str = "") -> tuple[Port, ...]:
            axes = ("batch", LAYERS, HEADS, axis, SIZE)
            return tuple(Port(prefix + name, "float32", axes) for name in ("keys", "values"))

        assert isinstance(model, Decoder)
        logits = Port("logits", "float32", ("batch", "new", VOCABULARY))
        text = tuple(Port(name, "int64", ("batch", "length")) for name in ("input_ids", "attention_mask"))
        prefill = Signature("prefill", text, (logits, *cache("length")), limits={"length": 32})
        token, mask = Port("input_ids", "int64", ("batch", 1)), Port("attention_mask", "int64", ("batch", "past"))
        step = Signature("step", (token, mask, *cache("past", "past_")), (logits, *cache("total")), limits={"past": 47})
        batch = encoder.collate(encoder.encode(sample))
        first = call_on_arrays(Prefill(model), prefill)(batch)
        one = {
            "input_ids": batch["input_ids"][:, :1],
            "attention_mask": batch["attention_mask"],
            "past_keys": first["keys"],
            "past_values": first["values"],
        }
        return [
            Graph(prefill, Prefill(model), batch, prefix="model."),
            Graph(step, Step(model), one, prefix="model."),
        ]

    def predict(self, graphs: Callables, batch: Arrays) -> Arrays:
        mask = batch["attention_mask"]
        said = graphs["prefill"](batch)
        logits = said["logits"][np.arange(len(mask)), mask.sum(axis=1) - 1]  # at each row's own last token
        all_logits = [logits]
        for _ in range(NEW_TOKENS - 1):
            token = logits.argmax(-1)[:, None]
            cache = {"past_keys": said["keys"], "past_values": said["values"]}
            said = graphs["step"]({"input_ids": token, "attention_mask": mask, **cache})
            mask = np.concatenate([mask, np.ones_like(token)], axis=1)
            logits = said["logits"][:, 0]
            all_logits.append(logits)
        return {"logits": np.stack(all_logits, axis=1)}  # [batch, NEW_TOKENS, V]

    def targets(self, examples: Examples, encoded: Encoded) -> np.ndarray | Sequence[np.ndarray]:
        return [np.array(row["input_ids"]) for row in encoded]

    def truth(self, examples: Examples) -> list[Any]:
        return [" ".join(map(str, row)) for row in examples["continuation"]]

    def answers(self, outputs: Arrays, labels: Sequence[str]) -> list[Any]:
        return [" ".join(map(str, row)) for row in outputs["logits"].argmax(-1)]

    def score(self, outputs: Arrays, examples: Examples) -> dict[str, float]:
        return {"exact": float(self.hits(outputs, examples).mean())}

    def hits(self, outputs: Arrays, examples: Examples) -> np.ndarray:
        return (outputs["logits"].argmax(-1) == np.array(examples["continuation"])).all(axis=1).astype(float)


@TASKS.register("toy-tagging")
class ToyTagging(Task):
    """A label a token, of any transformers model."""

    name: ClassVar[str] = "toy-tagging"
    modality: ClassVar[str] = "text"
    encoder: ClassVar[type[Encoder]] = TextEncoder
    metrics: ClassVar[Mapping[str, bool]] = {"accuracy": True}
    columns: ClassVar[tuple[str, ...]] = ("text", "tags")

    def check(self, splits: Splits, metric: str) -> None: ...

    def model_class(self) -> Any:
        from transformers import AutoModelForTokenClassification

        return AutoModelForTokenClassification

    def graphs(self, model: nn.Module, encoder: Encoder, sample: Examples) -> list[Graph]:
        assert isinstance(encoder, TextEncoder)
        signature = Signature(
            "forward",
            tuple(Port(name, "int64", ("batch", "length")) for name in encoder.inputs),
            (Port("logits", "float32", ("batch", "length", len(sample.labels))),),
            limits={"length": encoder.max_length},
        )
        batch = encoder.collate(encoder.encode(sample))
        return [Graph(signature, SelectOutputs(model, signature), batch, prefix="model.")]

    def predict(self, graphs: Callables, batch: Arrays) -> Arrays:
        return graphs["forward"](batch)

    def targets(self, examples: Examples, encoded: Encoded) -> np.ndarray | Sequence[np.ndarray]:
        return [np.array(tags) for tags in examples["tags"]]

    def truth(self, examples: Examples) -> list[Any]:
        return [[examples.labels[i] for i in tags] for tags in examples["tags"]]

    def answers(self, outputs: Arrays, labels: Sequence[str]) -> list[Any]:
        return [[labels[i] for i in row] for row in outputs["logits"].argmax(-1)]

    def score(self, outputs: Arrays, examples: Examples) -> dict[str, float]:
        return {"accuracy": float(self.hits(outputs, examples).mean())}

    def hits(self, outputs: Arrays, examples: Examples) -> np.ndarray:
        guesses = outputs["logits"].argmax(-1)
        return np.array([np.mean(guesses[i, : len(tags)] == tags) for i, tags in enumerate(examples["tags"])])
