"""The worker as the real process that it is."""

import json
import subprocess
import sys

import pytest

from kdc.measure.processes import worker_environment
from kdc.measure.rows import write_rows

PROBE = """
import json, sys
from kdc.measure.worker import run_job
run_job(json.load(sys.stdin))
print(json.dumps([name for name in ("torch", "transformers", "datasets", "pandas") if name in sys.modules]))
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


def test_serving_an_onnx_artifact_imports_no_torch(text_artifacts, image_artifacts, texts, images, tmp_path):
    for folder, examples in ((text_artifacts["onnxruntime"], texts), (image_artifacts["onnxruntime"], images)):
        done = start(job_for(folder, tmp_path, examples), "-c", PROBE)
        assert json.loads(done.stdout.splitlines()[-1]) == [], done.stderr


def test_a_folder_that_is_no_artifact_is_one_line(tmp_path, texts):
    done = start(job_for(tmp_path / "nothing", tmp_path, texts), "-m", "kdc.measure.worker")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "is no kdc artifact" in done.stderr
