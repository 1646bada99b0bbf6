import pytest

from kdc.record import KernelCount, Stage, Timing
from kdc.report import summary, table
from kdc.report.html import run_page


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (table.score("accuracy", 0.8842), "88.4%"),
        (table.score("mcc", 0.7), "0.700"),
        (table.score_interval("f1_macro", (0.869, 0.898)), "86.9–89.8"),
        (table.score_interval("mcc", (0.5, 0.75)), "0.500–0.750"),
        (table.score_interval("accuracy", None), ""),
        (table.points(-0.0134), "−1.3"),
        (table.significant(0.1234), "0.123"),
        (table.significant(1.468), "1.47"),
        (table.significant(11.94), "11.9"),
        (table.significant(2451.2), "2,451"),
        (table.size(999), "999 B"),
        (table.size(480_000), "480 kB"),
        (table.size(17_800_000), "17.8 MB"),
        (table.size(1_250_000_000), "1.25 GB"),
        (table.times(0.625), "0.62x"),
        (table.times(8.13), "8.1x"),
        (table.times(1234.5), "1,234x"),
        (table.times_interval((7.81, 8.42)), "7.8–8.4"),
        (table.seconds(3.21), "3.2 s"),
        (table.seconds(75.4), "75 s"),
        (table.seconds(300), "5.0 min"),
        (table.short_workload({"batch": 1, "length": 32}), "1 x 32"),
    ],
)
def test_how_numbers_read(shown, wanted):
    assert shown == wanted


def test_energy_and_memory_are_told_where_they_were_measured(text_record):
    student = text_record.variants[2]
    student.latency[0].joules, student.memory.peak_gpu_bytes = 0.0123, 40_000_000
    (timed, _) = table.latency_grid(text_record)[1]
    assert [cell.detail.endswith("12.3 mJ") for cell in timed[1:]] == [False, False, True]
    files = summary.files(text_record)
    assert files.head[-2:] == ["memory over idle", "on the GPU"]
    assert [row[-2:] for row in files.rows] == [["238 MB", "-"], ["238 MB", "-"], ["238 MB", "40.0 MB"]]


def test_kernels_that_a_runtime_fused_are_told_where_it_tells_them(text_record):
    for variant, fused in zip(text_record.variants[1:], ({"FusedMatMul": 2, "BiasGelu": 3}, {}), strict=True):
        variant.kernels = KernelCount(operators=40, kernels=12, fused=fused)
    text_record.variants[0].kernels = KernelCount()
    names = [variant.name for variant in text_record.variants[1:]]
    rows = [[names[0], "40", "12", "3 BiasGelu, 2 FusedMatMul"], [names[1], "40", "12", "none"]]
    assert summary.kernels(text_record).rows == rows
    assert "3 BiasGelu, 2 FusedMatMul" in run_page(text_record)


@pytest.mark.parametrize(
    ("own", "together", "said"),
    [
        (None, [], ""),
        (60.0, [], "60 s"),
        (12.0, [], "12 s, and 40 s of timing"),
        (12.0, ["a", "b", "c", "d"], "12 s, and 40 s of timing shared by 4 runs"),
        (60.0, ["a", "b", "c", "d"], "60 s, and 40 s of timing shared by 4 runs"),
    ],
)
def test_a_run_took_no_less_than_its_stages(text_record, own, together, said):
    """Of 12 seconds of its own none were for the timing; 60 hold it, unless it was shared."""
    text_record.run.wall_seconds = own
    text_record.stages = [
        Stage(name=n, key="", cached=False, wall_seconds=s) for n, s in (("student", 9), ("latency", 40))
    ]
    text_record.timing = Timing(rounds=5, processes=10, wall_seconds=40, machine="m", together=together)
    assert table.duration(text_record) == said
    assert said in run_page(text_record)


def test_a_run_that_was_not_timed_took_its_own_time(text_record):
    text_record.timing = None
    assert table.duration(text_record) == "11.7 min"


def test_rows_take_ratios_from_the_record(text_record):
    student = table.rows(text_record)[2]
    assert student == [
        table.Cell("student+int8"), table.Cell("onnxruntime"), table.Cell("int8"), table.Cell("86.4%", "84.9–88.0"),
        table.Cell("96.3%"), table.Cell("17.8 MB", "5.1x"), table.Cell("1.47"), table.Cell("8.1x", "7.8–8.4"),
        table.Cell("250 MB"),
    ]  # fmt: skip
    assert [cell.main for cell in table.rows(text_record)[0]][-3:] == ["11.9", "-", "250 MB"]


def test_nothing_retained_is_no_missing_value(text_record):
    text_record.variants[2].quality.retained = 0.0
    assert table.rows(text_record)[2][4] == table.Cell("0.0%")


def test_headers_name_metric_split_and_workload(text_record, image_record):
    assert table.headers(text_record)[3] == table.Cell("accuracy", "test")
    assert table.headers(text_record)[6] == table.Cell("p50 ms", "1 x 32")
    assert table.headers(image_record)[6] == table.Cell("p50 ms", "batch 1")


def test_what_a_failed_run_did_not_reach_is_a_dash(failed_record):
    teacher, student = table.rows(failed_record)
    assert [cell.main for cell in teacher] == ["teacher", "torch", "fp32", "89.7%", "-", "91.0 MB", "-", "-", "-"]
    assert [cell.main for cell in student] == ["student", "torch", "fp32", *["-"] * 6]


@pytest.mark.parametrize(
    ("name", "model"), [("student+int8.onnxruntime", "student+int8"), ("teacher", "teacher"), ("onnxruntime",) * 2]
)
def test_a_name_is_shown_without_its_runtime(text_record, name, model):
    variant = text_record.variants[2].model_copy(update={"name": name})
    assert table.model_name(variant) == model


def test_parity_of_every_artifact(text_record):
    seen = {"rows": 64, "agreement": 1.0, "max_difference": 0.5, "spread": 2.0}
    text_record.variants[0].fidelity = seen
    text_record.variants[1].fidelity = None
    text_record.variants[2].fidelity = {**seen, "agreement": 0.984, "in_float": 0.953}
    parity = summary.parity(text_record)
    assert [head.split()[0] for head in parity.head] == ["variant", "rows", "answers", "largest", "answers"]
    assert parity.rows == [
        ["teacher-torch", "64", "100.0%", "2.5e-01", "-"],
        ["student+int8-onnxruntime", "64", "98.4%", "2.5e-01", "95.3%"],
    ]
