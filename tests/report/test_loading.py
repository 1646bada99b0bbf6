"""The snippets are run as they stand, against what kdc itself answers."""

import contextlib
import io

import numpy as np
import pytest

from kdc.export.artifact import Artifact
from kdc.measure.size import artifact_size
from kdc.record import Variant
from kdc.report.loading import loading_snippet
from tests import tiny

pytestmark = pytest.mark.slow

RUNTIMES = ["torch", "onnxruntime"]


@pytest.mark.parametrize("modality", ["text", "image"])
def test_openvino(modality, texts, images, tmp_path):
    from PIL import Image

    examples = texts if modality == "text" else images
    built = tiny.built_bert(examples) if modality == "text" else tiny.built_net(examples, "cnn")
    session = tiny.artifact(tmp_path, built, examples, runtime="openvino").session()
    if modality == "image":
        Image.fromarray(images["image"][3, :, :, 0]).save(tmp_path / "a.png")
    said = answer_of(tmp_path, "openvino", text=texts["text"][3], png=str(tmp_path / "a.png"))
    assert said == str(session.answers(examples.select([3])))


def answer_of(folder, runtime, **replaced):
    variant = Variant(
        name="student", stage="student", runtime=runtime, precision="fp32", artifact=artifact_size(folder)
    )
    code = loading_snippet(variant)
    assert "kdc" not in code.replace("kdc.json", "")
    for placeholder, value in replaced.items():
        code = code.replace(f"your {placeholder}" if placeholder == "text" else f"your.{placeholder}", value)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, {})
    return said.getvalue().strip()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_text(runtime, text_artifacts, texts):
    row = texts.select([3])
    wanted = Artifact.open(text_artifacts[runtime]).session().answers(row)
    assert answer_of(text_artifacts[runtime], runtime, text=row["text"][0]) == str(wanted)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_images(runtime, image_artifacts, images, tmp_path):
    from PIL import Image

    session = Artifact.open(image_artifacts[runtime]).session()
    for i in range(4):
        Image.fromarray(images["image"][i, :, :, 0]).save(tmp_path / "a.png")
        wanted = session.answers(images.select([i]))
        assert answer_of(image_artifacts[runtime], runtime, png=str(tmp_path / "a.png")) == str(wanted)


def test_files_of_no_known_kind_have_no_snippet(tmp_path):
    np.save(tmp_path / "weights.npy", np.zeros(3))
    variant = Variant(name="x", stage="x", runtime="other", precision="fp32", artifact=artifact_size(tmp_path))
    assert loading_snippet(variant) == ""
