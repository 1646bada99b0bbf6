"""Models that kdc did not make, taken in as artifacts: Hugging Face folders, `.onnx` files, OpenVINO IRs.

Taking one in makes a folder of links to its files, with the manifest and the encoder that kdc would have written there.
Everything after that (sessions, sizes, timing) knows artifacts only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from kdc.data.examples import Examples
from kdc.errors import KdcError
from kdc.export.artifact import MANIFEST, Artifact, write_manifest
from kdc.export.base import RUNTIMES, Port, Signature
from kdc.export.graph_files import GraphFile, read_graph
from kdc.models.checkpoint import TEXT_INPUTS, checkpoint_encoder, positions, text_inputs
from kdc.quiet import quiet
from kdc.tasks.base import TASKS, Encoder, Task

HEADS = {"ForSequenceClassification": "text-classification", "ForImageClassification": "image-classification"}
"""How the names of architectures end, and what they are for."""
RUNTIME_OF = {".onnx": "onnxruntime", ".xml": "openvino"}
PRECISION_OF = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
MOST_TOKENS = 512
"""Where nothing says how many tokens a model takes."""
KNOWN = "kdc opens its artifacts, Hugging Face folders (config.json, *.safetensors), .onnx files and OpenVINO's .xml"


def take_in(path: Path, folder: Path, plugins: Sequence[str] = ()) -> Artifact:
    """The artifact at `path`, opened; one that kdc did not write is taken into `folder`, which is made for it.

    KdcError where `path` is nothing that kdc can run.
    """
    if (path / MANIFEST).is_file():
        return Artifact.open(path, plugins)
    if path.is_file() and path.suffix in RUNTIME_OF:
        taken_in = _graph
    elif (path / "config.json").is_file():
        taken_in = _checkpoint
    else:
        raise KdcError(*_unknown(path))
    folder.mkdir(parents=True)
    write_manifest(taken_in(path, folder))
    return Artifact.open(folder)


def _unknown(path: Path) -> tuple[str, str]:
    if not path.exists():
        return f"there is no {path}", KNOWN
    if (path / "record.json").is_file():
        return f"{path} is a run", "give folders under its artifacts/"
    if graphs := sorted(file for suffix in RUNTIME_OF for file in path.glob(f"*{suffix}")):
        return f"{path} is no model's folder", f"give the file: {graphs[0]}"
    return f"{path} is nothing that kdc can run", KNOWN


# Hugging Face folders


def _checkpoint(path: Path, folder: Path) -> Artifact:
    settings = _settings(path)
    task = _task(settings)
    if task is None:
        named = ", ".join(settings.get("architectures") or ["a model without a head"])
        raise KdcError(f"{path} holds {named}", f"kdc knows architectures that end in {' or '.join(HEADS)}")
    if not any(path.glob("*.safetensors")):
        graph = next(path.glob("*.onnx"), None)
        remedy = f"give the file: {graph}" if graph else "kdc loads no pickled weights: save it as safetensors"
        raise KdcError(f"{path} has no *.safetensors", remedy)
    model = _load(path, task)
    limit = positions(model.config, MOST_TOKENS)
    encoder = checkpoint_encoder(path, task, where="", inputs=text_inputs(model), max_length=limit)
    labels = tuple(model.config.id2label[number] for number in sorted(model.config.id2label))
    sample = _sample(task, encoder, labels)
    _link(folder, {file.name: file for file in (path / "config.json", *path.glob("*.safetensors*"))})
    encoder.save(folder)
    return Artifact(
        folder,
        task,
        RUNTIMES["torch"].model_validate({"name": "torch"}),
        PRECISION_OF[str(model.dtype).removeprefix("torch.")],
        tuple(sample.inputs),
        labels,
        tuple(graph.signature for graph in task.graphs(model, encoder, sample)),
    )


def _load(path: Path, task: Task) -> Any:
    from safetensors import SafetensorError

    family = task.model_class()  # brings transformers in, which must be there to be quietened
    try:
        with quiet():
            model, info = family.from_pretrained(
                path, dtype="auto", use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
    except (ValueError, OSError, RuntimeError, SafetensorError) as error:
        raise KdcError(f"cannot load the model in {path} ({str(error).strip().splitlines()[0]})") from error
    if missing := sorted(info["missing_keys"]):
        raise KdcError(
            f"{path} lacks {len(missing)} of the model's weights, among them {missing[0]}", "get the whole checkpoint"
        )
    return model.eval()


def _sample(task: Task, encoder: Encoder, labels: tuple[str, ...]) -> Examples:
    """Two rows that say what the task's rows look like."""
    if task.modality == "text":
        return Examples({"text": ["one", "one and another"]}, labels)
    from kdc.tasks.image import ImageEncoder

    assert isinstance(encoder, ImageEncoder)
    return Examples({"image": np.zeros((2, *encoder.size, encoder.channels), dtype=np.uint8)}, labels)


# Single graphs


def _graph(path: Path, folder: Path) -> Artifact:
    """With the task and the encoder that the files beside it tell of, where they fit the graph."""
    from kdc.models.build import checkpoint_labels

    graph = read_graph(path)
    settings = _settings(path.parent) if (path.parent / "config.json").is_file() else {}
    known = {"max_position_embeddings": settings.get("n_positions"), "pad_token_id": 1, **settings}
    limit = positions(SimpleNamespace(**known), 0) or None
    runtime = RUNTIMES[RUNTIME_OF[path.suffix]].model_validate({"name": RUNTIME_OF[path.suffix]})
    bare = Artifact(folder, None, runtime, graph.precision, (), (), (_signature(graph, path, limit),))
    _link(folder, graph.files)
    task = _task(settings)
    if task is None or not _serves(task, bare.signatures[0], path.parent):
        return bare
    inputs = [port.name for port in graph.inputs]
    encoder = checkpoint_encoder(path.parent, task, where="", inputs=inputs, max_length=limit or MOST_TOKENS)
    encoder.save(folder)
    labels = tuple(checkpoint_labels(path.parent, task))
    signature = _signature(graph, path, getattr(encoder, "max_length", None))
    columns = tuple(_sample(task, encoder, labels).inputs)
    return replace(bare, task=task, inputs=columns, labels=labels, signatures=(signature,))


def _serves(task: Task, signature: Signature, beside: Path) -> bool:
    """Whether an encoder made of the files `beside` the graph would feed it just what it takes, rows of any length."""
    inputs = {port.name for port in signature.inputs}
    files = TOKENIZER_FILES if task.modality == "text" else ("preprocessor_config.json",)
    return (
        not signature.fixed
        and "logits" in {port.name for port in signature.outputs}
        and (inputs <= set(TEXT_INPUTS) if task.modality == "text" else inputs == {"pixel_values"})
        and any((beside / name).is_file() for name in files)
    )


def _signature(graph: GraphFile, path: Path, limit: int | None) -> Signature:
    """The file's ports with kdc's names: the first axis is `batch`, the second one of tokens `length`.

    An axis that is dynamic in no input has its name where it is equally large in all of them, and is `fixed`.
    """
    inputs = {port.name: port for port in graph.inputs}
    batched, batch = _named([port for port in inputs.values() if port.axes], 0, "batch")
    inputs |= batched
    long, length = _named([port for port in inputs.values() if _is_of_tokens(port)], 1, "length")
    inputs |= long
    if not batched:
        raise KdcError(f"{path}: its inputs share no first axis", "kdc times graphs whose inputs begin with the batch")
    for port in inputs.values():
        for place, axis in enumerate(port.axes):
            if isinstance(axis, str) and axis not in ("batch", "length"):
                raise KdcError(
                    f"{path}: axis {place} of its input '{port.name}' is dynamic, and nothing tells how large",
                    "export it with a fixed size there; the batch and the length of tokens may vary",
                )
    outputs = {port.name: port for port in graph.outputs}
    outputs |= _named([port for port in graph.outputs if port.axes], 0, "batch")[0]
    limits = {"length": limit} if limit and long and not length else {}
    return Signature("forward", tuple(inputs.values()), tuple(outputs.values()), limits, fixed=batch | length)


def _is_of_tokens(port: Port) -> bool:
    if len(port.axes) != 2:
        return False
    if isinstance(port.axes[1], str):
        return port.dtype.startswith(("int", "bool")) or "mask" in port.name
    return "ids" in port.name or "mask" in port.name


def _named(ports: Sequence[Port], place: int, name: str) -> tuple[dict[str, Port], dict[str, int]]:
    """Those `ports` whose axis `place` is dynamic, with the axis called `name`; where there are none, all if it has
    one size in all, and that size.
    """
    dynamic = [port for port in ports if isinstance(port.axes[place], str)]
    sizes = {axis for port in ports if isinstance(axis := port.axes[place], int)}
    same = not dynamic and len(sizes) == 1
    renamed = {
        port.name: replace(port, axes=(*port.axes[:place], name, *port.axes[place + 1 :]))
        for port in (ports if same else dynamic)
    }
    return renamed, {name: sizes.pop()} if same else {}


# Both


def _settings(folder: Path) -> dict[str, Any]:
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise KdcError(f"{folder / 'config.json'} is no JSON ({error})", "get the checkpoint again") from error
    if not isinstance(settings, dict):
        raise KdcError(f"{folder / 'config.json'} holds no settings", "get the checkpoint again")
    return settings


def _task(settings: Mapping[str, Any]) -> Task | None:
    """What the first architecture is for; None where kdc does not know its kind."""
    first = next(iter(settings.get("architectures") or [""]))
    name = next((name for head, name in HEADS.items() if first.endswith(head)), None)
    return TASKS[name]() if name else None


def _link(folder: Path, files: Mapping[str, Path]) -> None:
    for name, file in files.items():
        (folder / name).symlink_to(file.resolve())
