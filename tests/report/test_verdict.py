import pytest

from kdc.record import Churn, Comparison, Difference, RunRecord, Timing, Versus
from kdc.report.verdict import fair_baseline, verdict


def test_a_whole_run_in_one_sentence(text_record):
    assert verdict(text_record) == (
        "student+int8 in onnxruntime keeps 96.3% of the teacher's accuracy (86.4% against 89.7%, 1,821 test rows), "
        "is 8.1x faster than the teacher in torch (4.2x faster than the teacher in onnxruntime) at batch 1 x 32 tokens "
        "on 2 threads, and is 5.1x smaller."
    )


def test_quality_within_its_interval_and_slower_is_said(image_record):
    assert verdict(image_record) == (
        "student in torch keeps 100.5% of the teacher's accuracy (98.5% against 98.0%, 1,821 test rows: not "
        "distinguishable within the 95% interval 97.7–99.0), is 1.60x slower than the teacher in torch at batch 1 "
        "on 2 threads, and is 1.98x smaller."
    )


@pytest.mark.parametrize(
    ("ci95", "said"),
    [
        ((-0.004, 0.014), "not distinguishable, 95% interval of the difference −0.4 to +1.4 points), is"),
        ((0.001, 0.009), "1,821 test rows), is"),
    ],
)
def test_the_paired_difference_decides_what_can_be_told_apart(ci95, said, image_record):
    """Where it is known: two intervals of single variants overlap long before the same rows tell no difference."""
    paired = Difference(value=0.005, ci95=ci95, test="McNemar, exact")
    churn = Churn(n=1821, right_to_wrong=1, wrong_to_right=10, changed=11)
    image_record.variants[-1].comparisons = [
        Comparison(against=image_record.baseline, role="teacher", metrics={"accuracy": paired}, churn=churn)
    ]
    assert said in verdict(image_record)


def test_speed_whose_interval_holds_one_is_not_claimed(text_record):
    final = text_record.variants[2].latency[0]
    final.versus = [Versus(against="teacher-torch", ratio=1.05, ci95=(0.97, 1.13))]
    assert "is not distinguishable in speed from the teacher in torch (1.05x, 95% interval 0.97–1.13) at" in verdict(
        text_record
    )


def test_a_small_ratio_without_an_interval_is_not_claimed(text_record):
    final = text_record.variants[2].latency[0]
    final.versus = [Versus(against="teacher-torch", ratio=0.93)]
    assert "is about as fast as the teacher in torch (0.93x, too few rounds for an interval) at" in verdict(text_record)


def test_a_last_variant_that_could_not_be_timed_is_said_to_be_so(text_record):
    text_record.variants[2].latency = []
    assert "1,821 test rows), could not be timed, and is 5.1x smaller." in verdict(text_record)
    for variant in text_record.variants:
        variant.latency = []
    assert "timed" not in verdict(text_record)


def test_threads_are_those_of_the_timed_processes(text_record):
    for variant in text_record.variants:
        variant.latency[0].workload["threads"] = 1
    assert "on 1 thread," in verdict(text_record)


@pytest.mark.parametrize(
    ("rounds", "said"),
    [(1, " (only 1 round, so wide intervals)"), (3, " (only 3 rounds, so wide intervals)"), (7, "")],
)
def test_few_rounds_are_said_to_make_wide_intervals(rounds, said, text_record):
    text_record.timing = Timing(rounds=rounds, processes=3 * rounds, wall_seconds=1, machine="m")
    assert f"at batch 1 x 32 tokens on 2 threads{said}, and is" in verdict(text_record)


def test_the_fair_baseline_is_the_teacher_in_the_same_runtime(text_record):
    teacher, fair, student = text_record.variants
    assert fair_baseline(text_record, student) is fair
    assert fair_baseline(text_record, teacher) is None
    text_record.variants.remove(fair)
    assert fair_baseline(text_record, student) is None
    assert "(4.2x" not in verdict(text_record)


def test_a_teacher_alone_has_nothing_to_keep(text_record):
    del text_record.variants[1:]
    assert verdict(text_record) == (
        "teacher in torch has 89.7% accuracy (1,821 test rows), takes 11.9 ms at batch 1 x 32 tokens on 2 threads, "
        "and ships in 91.0 MB."
    )


def test_metrics_where_less_is_better_are_not_kept(text_record):
    for variant, value in zip(text_record.variants, (10.0, 10.0, 12.5), strict=True):
        metric = variant.quality.metrics.pop("accuracy")
        variant.quality.metrics["perplexity"] = metric.model_copy(
            update={"value": value, "higher_is_better": False, "ci95": (11.0, 14.0)}
        )
    assert "has perplexity of 12.500 (12.500 against 10.000, 1,821 test rows)" in verdict(text_record)


def test_larger_and_equal_files_are_not_called_smaller(text_record):
    teacher, _, student = text_record.variants
    student.artifact.bytes = 2 * teacher.artifact.bytes
    assert verdict(text_record).endswith("and is 2.0x larger.")
    student.artifact.bytes = teacher.artifact.bytes
    assert verdict(text_record).endswith("and is as large.")


def test_a_failed_run_says_where_and_why(failed_record):
    assert verdict(failed_record) == "The run failed in stage measure: timing student: killed; free some memory"


@pytest.mark.parametrize(
    ("status", "said"), [("running", "The run has not ended."), ("ok", "No variant was measured.")]
)
def test_an_empty_run(status, said):
    run = {"id": "1", "command": "kdc run", "started_at": "now", "status": status}
    assert verdict(RunRecord.model_validate({"run": run})) == said


def test_variants_that_were_only_built(failed_record):
    failed_record.run.status = "ok"
    assert verdict(failed_record) == "student in torch was built; nothing was measured."
