"""Build teacher and student: load a checkpoint, start from a config, or copy layers; labels are matched by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdc.errors import KdcError
from kdc.hub import model_folder
from kdc.models.checkpoint import TEXT_INPUTS, checkpoint_encoder, positions, text_inputs
from kdc.models.layers import copy_layers, last_linear, layer_map, layer_stack
from kdc.models.settings import Needs, architecture_settings, draw_model, one_line
from kdc.models.spec import PLAIN_NETS, ModelConfig, StudentConfig, TeacherConfig
from kdc.quiet import quiet
from kdc.tasks.base import Encoder, Task
from kdc.tasks.text import TextEncoder

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Built:
    """A model with its encoder. `new_head` tells that it cannot answer yet; `notes` are for the record."""

    model: Any
    encoder: Encoder
    new_head: bool
    notes: list[str] = field(default_factory=list)


def build_model(config: ModelConfig, role: str, needs: Needs, *, teacher: Built | None = None) -> Built:
    """The model that `config` describes; `role` is `teacher` or `student` and names the keys in errors."""
    if config.path is not None:
        return _from_checkpoint(config, role, needs)
    if config.architecture is not None:
        return _from_scratch(config, role, needs, teacher.encoder if teacher else None)
    assert isinstance(config, StudentConfig)
    assert config.layers is not None
    assert teacher is not None
    _, depth = layer_stack(teacher.model)
    kept = layer_map(depth, config.layers, config.pick)
    note = "student layers from the teacher's: " + ", ".join(f"{new}<-{old}" for new, old in enumerate(kept))
    return Built(copy_layers(teacher.model, kept), teacher.encoder, new_head=False, notes=[note])


def redrawn(built: Built) -> Built:
    """The same architecture and encoder with weights drawn anew: nothing of what they were is left."""
    notes = [*built.notes, "weights drawn anew"]
    return Built(type(built.model)(built.model.config), built.encoder, new_head=True, notes=notes)


def load_model(folder: Path, task: Task) -> Built:
    """What `save_model` wrote."""
    from kdc.models.shapes import is_cut

    with quiet():
        model = _cut_model(folder, task) if is_cut(folder) else _plain_model(folder, task)
    return Built(model, task.encoder.load(folder), new_head=False)


def _plain_model(folder: Path, task: Task) -> Any:
    return task.model_class().from_pretrained(folder, dtype="auto", use_safetensors=True).eval()


def _cut_model(folder: Path, task: Task) -> Any:
    import transformers

    from kdc.models.shapes import load_cut

    family = task.model_class()  # teaches transformers the plain nets
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    architecture = getattr(transformers, config.architectures[0], None)  # of several for one config, the one it was
    return load_cut(folder, architecture or family._model_mapping[type(config)], config)


def save_model(built: Built, folder: Path) -> None:
    """The folder of a model and its encoder; one that was cut is marked as such."""
    from kdc.models.shapes import save_cut

    with quiet():
        if not save_cut(built.model, folder):
            built.model.save_pretrained(folder)
    built.encoder.save(folder)


def _from_checkpoint(config: ModelConfig, role: str, needs: Needs) -> Built:
    from safetensors import SafetensorError
    from transformers import AutoConfig

    folder, _ = model_folder(str(config.path), config.revision, f"{role}.path")
    needs.task.model_class()  # teaches transformers the plain nets
    try:
        settings = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError) as error:
        raise KdcError(
            f"{role}.path: cannot read the model in {folder} ({one_line(error)})",
            "kdc reads models that transformers knows; it runs no code that a checkpoint brings",
        ) from error
    head = checkpoint_labels(folder, needs.task)
    order = _head_order(head, needs.labels, config, role)
    try:
        with quiet():
            model, unread = _with_weights(folder, needs, own_head=order is not None)
    except (ValueError, OSError, RuntimeError, SafetensorError) as error:
        raise KdcError(f"{role}.path: cannot load the model in {folder} ({one_line(error)})") from error
    if missing := sorted(name for name in unread if _in_body(model, name)):
        raise KdcError(
            f"{role}.path: {folder} lacks {len(missing)} of the model's weights, among them {missing[0]}",
            "get the whole checkpoint",
        )
    if order is not None:
        _reorder_head(model, order)
    elif head:
        if last_linear(model).out_features != len(needs.labels):
            raise KdcError(
                f"{role}.path: {folder} was cut for {len(head)} labels, the data has {len(needs.labels)}",
                "take a checkpoint that was not cut",
            )
        _renew_head(model)
    _set_labels(model.config, needs.labels)
    new_head = order is None or bool(unread)
    encoder = checkpoint_encoder(
        folder, needs.task, where=f"{role}.path: ", inputs=text_inputs(model),
        max_length=min(needs.max_length, positions(settings, needs.max_length)),
    )  # fmt: skip
    return Built(model, encoder, new_head)


def _with_weights(folder: Path, needs: Needs, *, own_head: bool) -> tuple[Any, set[str]]:
    """The model in `folder`, cut by kdc or not, and the names of weights that it does not have there."""
    from kdc.models.shapes import is_cut

    if is_cut(folder):
        return _cut_model(folder, needs.task), set()
    model, info = needs.task.model_class().from_pretrained(
        folder,
        dtype="float32",
        num_labels=len(needs.labels),
        ignore_mismatched_sizes=not own_head,
        output_loading_info=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    return model, {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}


def _head_order(head: Sequence[str], labels: Sequence[str], config: ModelConfig, role: str) -> list[int] | None:
    """For each of the data's labels, its row in the checkpoint's head; None where a new head takes its place."""
    if not head:
        return None
    try:
        return match_labels(head, labels, config.label_map, role)
    except KdcError:
        if isinstance(config, TeacherConfig) and config.train == "always":
            return None
        raise


def _in_body(model: Any, name: str) -> bool:
    """Whether a weight belongs to what a checkpoint without a head has as well: poolers often come with the head."""
    prefix = model.base_model_prefix
    if prefix and hasattr(model, prefix):
        return name.startswith(f"{prefix}.") and "pooler" not in name.split(".")
    return model.get_submodule(name.rpartition(".")[0]) is not last_linear(model)


def checkpoint_labels(folder: Path, task: Task) -> list[str]:
    """The label names of a checkpoint that has a head for this task, in its own order; none where the head is new."""
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise KdcError(f"{folder / 'config.json'} is no JSON ({error})", "get the checkpoint again") from error
    family = task.model_class().__name__.removeprefix("AutoModel")
    plain = PLAIN_NETS.get(settings.get("model_type")) == task.modality
    if not plain and not any(name.endswith(family) for name in settings.get("architectures") or []):
        return []
    named = settings.get("id2label")
    if named is None:
        return [f"LABEL_{i}" for i in range(settings.get("num_labels", 2))]
    return [named[key] for key in sorted(named, key=int)]


def match_labels(have: Sequence[str], want: Sequence[str], label_map: dict[str, str], role: str) -> list[int]:
    """For each of the data's labels, the row of the checkpoint's head that stands for it.

    Names are matched after `label_map`, ignoring case; counts and order prove nothing.
    """
    mapped = [label_map.get(name, name) for name in have]
    known = {name.casefold(): i for i, name in enumerate(mapped)}
    if len(have) != len(want):
        raise KdcError(
            f"{role}: the checkpoint has {len(have)} labels ({_some(have)}), the data has {len(want)} ({_some(want)})",
            f"use a checkpoint without a head, or {role}.train=always to replace it"
            if role == "teacher"
            else "use a checkpoint without a head",
        )
    missing = [name for name in want if name.casefold() not in known]
    if missing:
        raise KdcError(
            f"{role}: the checkpoint's labels ({_some(have)}) are not the data's ({_some(want)})",
            f"say which is which: '{role}.label_map={{{have[0]}: {want[0]}, ...}}'",
        )
    return [known[name.casefold()] for name in want]


def _reorder_head(model: nn.Module, order: Sequence[int]) -> None:
    """Put the rows of the last layer into the data's order of labels."""
    import torch

    if list(order) == list(range(len(order))):
        return
    with torch.no_grad():
        for parameter in last_linear(model).parameters():
            parameter.copy_(parameter[torch.tensor(order)])


def _renew_head(model: Any) -> None:
    """Draw the last layer anew: its rows stood for other labels."""
    from torch import nn

    for parameter in last_linear(model).parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=getattr(model.config, "initializer_range", 0.02))
        else:
            nn.init.zeros_(parameter)


def _set_labels(config: Any, labels: Sequence[str]) -> None:
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: i for i, name in enumerate(labels)}


def _from_scratch(config: ModelConfig, role: str, needs: Needs, encoder: Encoder | None) -> Built:
    needs.task.model_class()  # teaches transformers the plain nets
    assert config.architecture is not None
    if needs.task.modality == "image":
        from kdc.tasks.image import ImageEncoder

        encoder = encoder or ImageEncoder.fit(needs.train, needs.image_size)
        assert isinstance(encoder, ImageEncoder)
        sizes: dict[str, Any] = {"image_size": encoder.size[0], "num_channels": encoder.channels}
    else:
        encoder = _own_text_encoder(config, needs) or encoder
        assert isinstance(encoder, TextEncoder)
        sizes = {"vocab_size": encoder.vocab_size, "pad_token_id": encoder.pad_id}
    settings = architecture_settings(config.architecture, role, sizes)
    _set_labels(settings, needs.labels)
    model = draw_model(settings, needs.task, role)
    if isinstance(encoder, TextEncoder):
        encoder = encoder.for_model(text_inputs(model), max_length=positions(settings, needs.max_length))
    return Built(model, encoder, new_head=True)


def _own_text_encoder(config: ModelConfig, needs: Needs) -> TextEncoder | None:
    """A tokenizer trained on the training split; None for a student that reads what its teacher's makes."""
    from kdc.tasks.text import text_encoder, train_wordpiece

    assert isinstance(config, TeacherConfig | StudentConfig)
    if config.vocab_size is None:
        return None
    texts = [text for name in ("text", "text_pair") if name in needs.train for text in needs.train[name]]
    tokenizer = train_wordpiece(texts, config.vocab_size)
    return text_encoder(tokenizer, max_length=needs.max_length, inputs=TEXT_INPUTS)


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4])
    return f"{shown}, ..." if len(names) > 4 else shown
