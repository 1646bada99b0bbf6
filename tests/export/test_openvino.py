"""The OpenVINO lowering: full precision in the file and in the arithmetic, nothing of this machine, MACs by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdc.errors import KdcError
from kdc.export.foreign import take_in
from tests import tiny

pytestmark = pytest.mark.slow

openvino = pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Any:
    examples = tiny.sentences(20)
    return tiny.artifact(
        tmp_path_factory.mktemp("openvino"), tiny.built_bert(examples), examples, runtime="openvino"
    )  # fmt: skip


def test_weights_stay_in_fp32(written: Any) -> None:
    """OpenVINO halves them unless it is told not to."""
    model = openvino.Core().read_model(written.folder / "forward.xml")
    constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    floats = {node.get_element_type().get_type_name() for node in constants if node.get_element_type().is_real()}
    assert floats == {"f32"}


def test_arithmetic_is_fp32_and_threads_are_as_asked(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    original = openvino.Core.compile_model

    def spy(core: Any, *arguments: Any) -> Any:
        compiled.append(original(core, *arguments))
        return compiled[-1]

    monkeypatch.setattr(openvino.Core, "compile_model", spy)
    written.session(threads=1)
    (model,) = compiled
    assert model.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert model.get_property("INFERENCE_NUM_THREADS") == 1
    assert model.get_property("NUM_STREAMS") == 1


def test_nothing_of_this_machine_is_in_the_files(written: Any) -> None:
    content = b"".join((written.folder / f"forward.{suffix}").read_bytes() for suffix in ("xml", "bin"))
    for trace in (b"site-packages", b".py", b"/tmp", b"kdc-openvino-", str(Path(__file__).parents[2]).encode()):
        assert trace not in content, trace


def test_serving_imports_no_torch(written: Any) -> None:
    import subprocess

    program = (
        "import sys; from pathlib import Path; from kdc.export.artifact import Artifact; "
        "from kdc.data.examples import Examples; session = Artifact.open(Path(sys.argv[1])).session(threads=1); "
        "print(session.answers(Examples({'text': ['good film']}))); "
        "print([name for name in ('torch', 'transformers', 'datasets', 'onnx') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(written.folder)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[1] == "[]"


def test_without_openvino_one_line_says_how_to_get_it(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(KdcError, match=r"openvino is not installed; pip install 'kdc\[openvino\]'"):
        written.session()


def test_grouped_and_plain_convolutions_are_counted(tmp_path: Path) -> None:
    """16 outputs of 4x4: plain over 8 channels, then over groups of 4, with a relu that the compiler melts in."""
    from openvino import opset13 as ops

    def weights(*shape: int) -> Any:
        return ops.constant(np.ones(shape, np.float32))

    pixels = ops.parameter([-1, 8, 4, 4], np.float32, name="pixels")
    around = {"strides": [1, 1], "pads_begin": [1, 1], "pads_end": [1, 1], "dilations": [1, 1]}
    plain = ops.convolution(pixels, weights(16, 8, 3, 3), **around)
    grouped = ops.group_convolution(plain, weights(4, 4, 4, 3, 3), **around)
    net = openvino.Model([ops.relu(grouped)], [pixels], "nets")
    openvino.save_model(net, tmp_path / "a.xml", compress_to_fp16=False)
    artifact = take_in(tmp_path / "a.xml", tmp_path / "in")
    batch = artifact.session(threads=1).example_batch(batch=2, length=1)
    counted = artifact.runtime.executed(artifact.folder, artifact.signatures, {"forward": batch})
    assert counted.macs == 2 * 16 * 16 * (8 * 9 + 4 * 9)
    assert counted.int8 == 0
    assert (counted.operators, counted.fused) == (3, {"Convolution": 1})
    assert counted.kernels >= 2, "and turns of the layout"
