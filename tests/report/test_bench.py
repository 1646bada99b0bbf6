from rich.console import Console

from kdc.record import Latency, Memory, Run, RunRecord, Variant, Versus
from kdc.report.bench import print_bench


def variant(name, p50, *, versus=(), p90=None, lengths=(32,)):
    timed = [
        Latency(
            workload={"batch": 1, "length": length, "threads": 2}, p50_ms=p50, p90_ms=p90, throughput=1000 / p50,
            samples=[[p50]], versus=list(versus),
        )
        for length in lengths
    ]  # fmt: skip
    memory = Memory(peak_rss_bytes=250_000_000, idle_rss_bytes=12_000_000)
    return Variant(
        name=name, stage=name, runtime="onnxruntime", precision="fp32", latency=timed, memory=memory,
        load_seconds=0.4, first_call_ms=20.0,
    )  # fmt: skip


def printed(*variants, width=80):
    run = Run(id="1", command="kdc bench", status="ok", started_at="2030-01-01T12:00:00")
    record = RunRecord(
        run=run, variants=list(variants), baseline=variants[0].name, verdict="a verdict", notes=["a [note]"]
    )
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        print_bench(record, console)
    return [" ".join(line.split()) for line in captured.get().splitlines()]


def test_each_workload_lists_those_that_ran_it():
    faster = Versus(against="old.onnx", ratio=2.0, ci95=(1.9, 2.1))
    lines = printed(variant("old.onnx", 10.0, lengths=(32, 64)), variant("new[1].onnx", 5.0, versus=[faster]))
    assert lines[lines.index("batch 1 x 32 tokens") :][:5] == [
        "batch 1 x 32 tokens",
        "old.onnx 10.0 baseline 100",
        "new[1].onnx 5.00 2.0x (1.90–2.1) 200",
        "batch 1 x 64 tokens",
        "old.onnx 10.0 baseline 100",
    ]
    assert "new[1].onnx onnxruntime fp32 - 0.400 20.0 250 MB" in lines
    assert lines[-2:] == ["a verdict", "note: a [note]"]


def test_percentiles_stand_there_when_any_was_told():
    lines = printed(variant("old", 10.0, p90=12.0), variant("new", 5.0))
    assert "workload p50 ms speed-up p90 ms per second" in lines
    assert "old 10.0 baseline 12.0 100" in lines
    assert "new 5.00 - - 200" in lines


def test_one_alone_has_no_baseline_and_no_verdict():
    lines = printed(variant("only", 10.0))
    assert "only 10.0 - 100" in lines
    assert "a verdict" not in lines


def test_long_names_fit_eighty_columns():
    lines = printed(variant("student+prune+int8.onnxruntime", 10.0), variant("b", 2.0))
    assert all(len(line) <= 80 for line in lines)
