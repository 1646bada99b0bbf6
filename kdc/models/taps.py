"""What a model says of a batch besides its answer: hidden states, attentions, queries, features, gradients.

Signals by name, for a batch of `rows` texts of `length` tokens (pictures have their own shapes):

    logits            [rows, classes]
    hidden_states     a layer each, the embeddings first: [rows, length, width]; of convolutional nets the feature maps
                      [rows, channels, height, width]; of plain nets [rows, width]
    attentions        a layer each: [rows, heads, length, length], rows of the matrix sum to 1, in
                      training too, since dropout comes after
    queries, keys, values      a layer each: [rows, length, width], all heads side by side
    features          what the last layer reads: [rows, width]
    input_embeddings  what the first layer reads: [rows, length, width], or the pixels
    input_gradients   of the largest logit with respect to the input embeddings, of their shape
    weights           of linears [outputs, inputs] and convolutions [outputs, inputs, height, width] by module name,
                      independent of the batch; embeddings are not among them
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdc.errors import KdcError
from kdc.models.first_token import first_token_only, is_shortened
from kdc.models.layers import last_linear, layer_stack
from kdc.models.shapes import outputs_first
from kdc.models.undropped import use_undropped_attention

LAYERED = frozenset({"hidden_states", "attentions", "queries", "keys", "values"})
"""Signals that are a tuple, a tensor a layer."""
SWITCHES = {"hidden_states": "output_hidden_states", "attentions": "output_attentions"}
"""Signals that a `transformers` model returns only when asked, and how it is asked."""
PROJECTIONS = {
    "queries": ("query", "q_lin", "q_proj", "query_proj", "q"),
    "keys": ("key", "k_lin", "k_proj", "key_proj", "k"),
    "values": ("value", "v_lin", "v_proj", "value_proj", "v"),
}
"""What the linears inside an attention are called."""
FUSED = ("c_attn", "Wqkv", "qkv")
"""... and those that compute all three at once, side by side (others deal them out head by head)."""
EAGER = frozenset({"attentions", "input_embeddings", "input_gradients"})
"""Signals that need attention in the plain way: the fast ones form no matrix and have no second derivative."""
OF_FIRST_TOKEN = frozenset({"logits", "features", "weights"})
"""Signals that are the same whatever the last layer says of other tokens, if the head reads the first alone."""
MATRICES = ("Linear", "Conv1D", "Conv1d", "Conv2d")

Signals = Mapping[str, Any]
"""By name: a tensor, a tuple of them (`LAYERED`), or names with tensors (`weights`)."""
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Outline:
    """What a model can say, in which shapes, for `ROWS` rows of `LENGTH` tokens.

    `shapes` has an entry for every signal that it was asked for and has; one shape a layer. `vocabulary` tells texts
    that are cut into the same tokens (None: the model reads none). `matrices` names the `weights`, in their order.
    `max_length` is how many tokens it takes.
    """

    name: str
    shapes: Mapping[str, tuple[Shape, ...]] = field(default_factory=dict)
    vocabulary: str | None = None
    matrices: tuple[str, ...] = ()
    max_length: int | None = None

    def __contains__(self, signal: str) -> bool:
        return signal in self.shapes

    @property
    def depth(self) -> int:
        """Layers, embeddings not counted: of whichever layered signal was asked for."""
        for signal in sorted(LAYERED & self.shapes.keys()):
            return len(self.shapes[signal]) - (signal == "hidden_states")
        raise LookupError("no layered signal was asked for")

    def width(self, signal: str, layer: int = -1) -> int:
        """The last axis of texts' signals and plain nets', the channels of feature maps."""
        shape = self.shapes[signal][layer]
        return shape[1] if len(shape) == 4 and signal != "attentions" else shape[-1]


ROWS, LENGTH = 2, 5


class Taps:
    """Calls a model and brings the named signals of it.

    Until `close`, hooks stay in the model; `EAGER` signals keep it to attention computed in the plain way, and where
    none but `OF_FIRST_TOKEN` are read, a classifier's last layer computes that token alone.
    """

    def __init__(self, model: Any, names: Collection[str]) -> None:
        self.model = model
        self.names = tuple(sorted(names))
        takes = inspect.signature(model.forward).parameters
        any_name = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in takes.values())
        wanted = [SWITCHES[name] for name in self.names if name in SWITCHES]
        self._asked = {switch: True for switch in wanted if any_name or switch in takes}
        self._attention: str | None = None
        if hasattr(model, "set_attn_implementation") and EAGER & set(names):
            self._attention = model.config._attn_implementation
            if not use_undropped_attention(model):
                self.names = tuple(name for name in self.names if name != "attentions")
        self._shortcut = ExitStack()
        if set(names) <= OF_FIRST_TOKEN:
            self._shortcut.enter_context(first_token_only(model))
        elif is_shortened(model):
            raise RuntimeError(f"{', '.join(names)}: the model's last layer is shortened for other signals now")
        self._seen: dict[str, dict[int, Tensor]] = {}
        self._hooks = list(self._install())

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """The signals that the model has of those that were asked for; the others are missing."""
        self._seen = {}
        if "input_gradients" in self.names:
            with torch.enable_grad():
                said = self._said(inputs)
                [said["input_gradients"]] = torch.autograd.grad(
                    said["logits"].amax(dim=-1).sum(), said["input_embeddings"]
                )
        else:
            said = self._said(inputs)
        self._seen = {}
        return {name: said[name] for name in self.names if said.get(name) is not None}

    def close(self) -> None:
        self._shortcut.close()
        for hook in self._hooks:
            hook.remove()
        if self._attention is not None:
            self.model.set_attn_implementation(self._attention)

    def _said(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        if {"input_embeddings", "input_gradients"} & set(self.names) and "pixel_values" in inputs:
            pixels = inputs["pixel_values"].detach().requires_grad_()
            inputs = {**inputs, "pixel_values": pixels}
            self._seen["input_embeddings"] = {0: pixels}
        outputs = self.model(**inputs, **self._asked)
        said: dict[str, Any] = {name: outputs.get(name) for name in ("logits", *SWITCHES) if name in outputs}
        for name, layers in self._seen.items():
            said[name] = tuple(layers[i] for i in sorted(layers)) if name in LAYERED else layers[0]
        if "weights" in self.names:
            said["weights"] = dict(matrices(self.model))
        return said

    def _install(self) -> Iterator[Any]:
        if "features" in self.names:
            yield last_linear(self.model).register_forward_pre_hook(self._keep_features)
        if {"input_embeddings", "input_gradients"} & set(self.names) and _reads_tokens(self.model):
            yield self.model.get_input_embeddings().register_forward_hook(self._keep_embeddings)
        if wanted := [name for name in PROJECTIONS if name in self.names]:
            for layer, block in enumerate(_blocks(self.model)):
                for name, module in block.named_modules():
                    last = name.rpartition(".")[2]
                    for signal in wanted:
                        if last in PROJECTIONS[signal] and hasattr(module, "weight"):
                            yield module.register_forward_hook(partial(self._keep, signal, layer))
                    if last in FUSED and _of_three(module):
                        yield module.register_forward_hook(partial(self._split, wanted, layer))

    def _keep(self, signal: str, layer: int, module: nn.Module, inputs: Any, output: Tensor) -> None:
        # the first call in a forward pass: DeBERTa projects its relative positions after the tokens
        self._seen.setdefault(signal, {}).setdefault(layer, output)

    def _split(self, wanted: list[str], layer: int, module: nn.Module, inputs: Any, output: Tensor) -> None:
        for signal, part in zip(PROJECTIONS, output.chunk(3, dim=-1), strict=True):
            if signal in wanted:
                self._keep(signal, layer, module, inputs, part)

    def _keep_features(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._seen["features"] = {0: inputs[0]}

    def _keep_embeddings(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        output = output if output.requires_grad or not torch.is_grad_enabled() else output.requires_grad_()
        self._seen["input_embeddings"] = {0: output}
        return output


def outline(model: Any, names: Collection[str], *, name: str, vocabulary: str | None = None) -> Outline:
    """Ask a model for these signals and look at what comes; one without data (`meta`) is given memory, no weights."""
    if next(model.parameters()).is_meta:
        model.to_empty(device="cpu")
        for buffer in model.buffers():
            buffer.zero_()  # positions index tables
    like = next(model.parameters())
    if vocabulary is not None or _reads_tokens(model):
        tokens = torch.ones(ROWS, LENGTH, dtype=torch.long, device=like.device)
        takes = inspect.signature(model.forward).parameters
        inputs = {name: tokens for name in ("input_ids", "attention_mask") if name in takes}
    else:
        size, channels = model.config.image_size, model.config.num_channels
        height, width = size if isinstance(size, list | tuple) else (size, size)
        inputs = {"pixel_values": like.new_zeros(ROWS, channels, height, width)}
    training = model.training
    shapes = {}
    weights: tuple[str, ...] = ()
    for signal in sorted(names):
        taps = Taps(model.eval(), {signal})
        try:
            with torch.no_grad():
                said = taps(inputs).get(signal)
        finally:
            taps.close()
        if isinstance(said, dict):
            weights = tuple(said)
        if said is not None:
            layers = said if isinstance(said, tuple) else said.values() if isinstance(said, dict) else (said,)
            shapes[signal] = tuple(tuple(layer.shape) for layer in layers)
    model.train(training)
    return Outline(name, shapes, vocabulary, weights)


def matrices(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights of linears and convolutions by module name, the outputs first."""
    for name, module in model.named_modules():
        if type(module).__name__ in MATRICES:
            yield name, outputs_first(module, module.weight)


def _blocks(model: Any) -> Iterator[nn.Module]:
    try:
        name, _ = layer_stack(model)
    except KdcError:
        return
    yield from model.get_submodule(name).children()


def _of_three(module: Any) -> bool:
    """Whether queries, keys and values come out of it in equal widths: not where heads share keys."""
    return hasattr(module, "weight") and max(module.weight.shape) == 3 * min(module.weight.shape)


def _reads_tokens(model: Any) -> bool:
    return model.main_input_name == "input_ids"
