"""The worker as the real process that it is."""

import json
import subprocess
import sys

import pytest

from kdc.data.rows import write_rows
from kdc.processes import worker_environment

pytestmark = pytest.mark.slow

PROBE = """
import json, sys
from kdc.measure.worker import run_job
run_job(json.load(sys.stdin))
print(json.dumps([name for name in ("torch", "transformers", "datasets", "pandas") if name in sys.modules]))
"""

COUNTED = """
import json, sys
from collections import Counter
from kdc.export.artifact import Session
from kdc.measure.worker import run_job
counts, answers = Counter(), Session.answers

def counted(self, examples):
    counts.update(examples["text"])
    return answers(self, examples)

Session.answers = counted
(timed,) = run_job(json.load(sys.stdin))["timed"]
print(json.dumps([len(timed["samples"]), counts]))
"""


def start(job, *command):
    return subprocess.run(
        [sys.executable, "-P", *command],
        input=json.dumps(job), capture_output=True, text=True, env=worker_environment(1), check=False, timeout=120,
    )  # fmt: skip


def job_for(folder, tmp_path, examples, **changes):
    write_rows(tmp_path / "rows.npz", examples.select(range(6)))
    job = {
        "artifact": str(folder),
        "plugins": [],
        "threads": 1,
        "calls": 7,
        "seconds": 0.5,
        "rows": str(tmp_path / "rows.npz"),
    }
    return {**job, "workloads": [{"batch": 1, "length": 8}, {"batch": 2, "length": 16}], **changes}


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_a_job_comes_back_with_samples_memory_and_load_time(runtime, text_artifacts, texts, tmp_path):
    done = start(job_for(text_artifacts[runtime], tmp_path, texts), "-m", "kdc.measure.worker")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert [len(timed["samples"]) for timed in result["timed"]] == [7, 7, 6]
    assert all(0 < ms < 1000 for timed in result["timed"] for ms in timed["samples"])
    assert 1e6 < result["idle_rss_bytes"] < result["loaded_rss_bytes"] <= result["peak_rss_bytes"]
    assert 0 < result["load_seconds"] < 60
    assert result["first_call_ms"] > 0
    assert result["peak_gpu_bytes"] is None
    assert all(timed["joules"] is None or timed["joules"] > 0 for timed in result["timed"])


def test_every_row_is_called_once_before_it_is_timed(text_artifacts, texts, tmp_path):
    """Rows have lengths of their own, and what a runtime does at its first call of a length is no latency."""
    job = job_for(text_artifacts["onnxruntime"], tmp_path, texts, workloads=[])
    done = start(job, "-c", COUNTED)
    assert done.returncode == 0, done.stderr
    samples, counts = json.loads(done.stdout.splitlines()[-1])
    first, *others = texts.select(range(6))["text"]
    assert samples == 6
    assert [counts.pop(text) for text in others] == [2] * 5
    assert list(counts) == [first]
    assert counts[first] >= 4  # the very first call, a warm-up of at least two, and the one on the clock


def test_serving_an_onnx_artifact_imports_no_torch(text_artifacts, image_artifacts, texts, images, tmp_path):
    for folder, examples in ((text_artifacts["onnxruntime"], texts), (image_artifacts["onnxruntime"], images)):
        done = start(job_for(folder, tmp_path, examples), "-c", PROBE)
        assert json.loads(done.stdout.splitlines()[-1]) == [], done.stderr


def test_a_folder_that_is_no_artifact_is_one_line(tmp_path, texts):
    done = start(job_for(tmp_path / "nothing", tmp_path, texts), "-m", "kdc.measure.worker")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "is no kdc artifact" in done.stderr
