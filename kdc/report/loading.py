"""The snippet that serves a shipped artifact without kdc: plain transformers, onnxruntime, openvino, Pillow."""

from __future__ import annotations

from kdc.record import Artifact, RunRecord, Variant
from kdc.shipped import shipped

LABELS = """\
import json

folder = "{path}"
labels = json.load(open(f"{{folder}}/kdc.json"))["labels"]
"""

TEXT_INPUTS = """\
from transformers import AutoTokenizer

inputs = AutoTokenizer.from_pretrained(folder)(["your text"], truncation=True, return_tensors="{tensors}")
"""

IMAGE_INPUTS = """\
import numpy as np
from PIL import Image

how = json.load(open(f"{{folder}}/preprocessor_config.json"))
mean, std = np.float32(how["image_mean"]), np.float32(how["image_std"])
image = Image.open("your.png").convert("L" if len(mean) == 1 else "RGB")
pixels = np.asarray(image.resize((how["size"]["width"], how["size"]["height"]), Image.Resampling.BILINEAR))
pixels = (pixels.reshape(*pixels.shape[:2], len(mean)) * np.float32(how["rescale_factor"]) - mean) / std
inputs = {{"pixel_values": {array}}}
"""

TORCH = """\
import torch
from transformers import {model}

with torch.inference_mode():
    logits = {model}.from_pretrained(folder)(**inputs).logits
"""

PROGRAM = """\
import torch

logits = torch.export.load(f"{{folder}}/forward.pt2").module()(*inputs.values())[0]
"""

ONNX = """\
import onnxruntime
session = onnxruntime.InferenceSession(f"{{folder}}/forward.onnx")
logits = session.run(None, {{port.name: inputs[port.name] for port in session.get_inputs()}})[0]
"""

OPENVINO = """\
import openvino
model = openvino.Core().compile_model(f"{{folder}}/forward.xml", "CPU", {{"INFERENCE_PRECISION_HINT": "{hint}"}})
logits = model([inputs[port.any_name] for port in model.inputs])[0]
"""

COMPILED = """\
import torch

logits = torch._inductor.aoti_load_package(f"{{folder}}/forward.pt2")(*inputs.values())[0]
"""

ANSWER = "print([labels[i] for i in logits.argmax(-1)])\n"


def loadable(record: RunRecord) -> Variant | None:
    """What ships; where that has no files, as in a record that was cut short, the last variant that has some."""
    ships = shipped(record)
    if ships is not None and ships.artifact is not None:
        return ships
    return next((variant for variant in reversed(record.variants) if variant.artifact), None)


def loading_snippet(variant: Variant) -> str:
    """Code for a classifier, read off the files that ship; empty for anything else."""
    assert variant.artifact is not None
    artifact = variant.artifact
    call = _call(artifact)
    if not call:
        return ""
    in_torch = call in (TORCH, PROGRAM, COMPILED)
    if "preprocessor_config.json" in artifact.files:
        batch = "pixels.transpose(2, 0, 1)[None]"
        dtype = {"bf16": ".bfloat16()", "fp16": ".half()"}.get(variant.precision, "")
        inputs = IMAGE_INPUTS.format(array=f"torch.from_numpy({batch}){dtype}" if in_torch else batch)
        model = "AutoModelForImageClassification"
    else:
        inputs = TEXT_INPUTS.format(tensors="pt" if in_torch else "np")
        model = "AutoModelForSequenceClassification"
    return _imports_first(
        LABELS.format(path=artifact.path)
        + inputs
        + call.format(model=model, hint="bf16" if variant.precision == "bf16" else "f32")
        + ANSWER
    )


def _imports_first(code: str) -> str:
    lines = [line for line in code.splitlines() if line]
    imports = {line for line in lines if line.startswith(("import ", "from "))}
    ordered = sorted(imports, key=lambda line: (line.startswith("from "), line))
    return "\n".join([*ordered, "", *(line for line in lines if line not in imports)]) + "\n"


def _call(artifact: Artifact) -> str:
    if "forward.onnx" in artifact.files:
        return ONNX
    if "forward.xml" in artifact.files:
        return OPENVINO
    if "forward.pt2" in artifact.files:
        return COMPILED if "machine.json" in artifact.files else PROGRAM
    return TORCH if "config.json" in artifact.files else ""
