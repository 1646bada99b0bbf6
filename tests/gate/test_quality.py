"""Quality rules on made-up predictions, against formulas; and everything that must be refused."""

import math
from pathlib import Path

import numpy as np
import pytest

from kdc.errors import KdcError
from kdc.gate.answers import joined, read_answers
from kdc.gate.change import paired_change
from kdc.gate.quality import quality_results
from kdc.gate.report import Result
from kdc.gate.rules import load_rules
from kdc.gate.side import open_baseline, open_candidate
from tests.gates import NAME, TRUTH, answers, write_run


def judged(now: Path, before: Path, *words: str) -> list[Result]:
    rules = load_rules("default", ["latency=null", "bytes=null", *words])
    candidate = open_candidate(now)
    return quality_results(rules.metrics, candidate, open_baseline(before, candidate))


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    return write_run(tmp_path / "baseline", answers(wrong=200))


def test_a_drop_of_three_points_fails_with_metric_drop_and_interval(tmp_path: Path, baseline: Path) -> None:
    (result,) = judged(write_run(tmp_path / "now", answers(wrong=260)), baseline)
    assert (result.rule, result.outcome) == ("accuracy.max_drop", "fail")
    # Agresti and Min 2005 by hand: 60 rows lost, none won, of 2,000.
    lost, won = 60.5 / 2002, 0.5 / 2002
    half = 1.6448536 * math.sqrt((lost + won - (lost - won) ** 2) / 2002)
    assert result.estimate == pytest.approx(0.03)
    assert (result.low, result.high) == pytest.approx((lost - won - half, lost - won + half))
    assert result.why == (
        "accuracy got worse by 3.00 points, from 90.0% to 87.0% (95% bounds -3.63 to -2.36); 1.50 points are allowed"
    )


def test_nothing_changed(tmp_path: Path, baseline: Path) -> None:
    (result,) = judged(write_run(tmp_path / "now", answers(wrong=200)), baseline, "primary.max_drop=0pp")
    assert (result.outcome, result.why) == ("pass", "all 2,000 rows are answered alike")


def test_churn_without_a_drop_passes_only_a_margin_that_it_resolves(tmp_path: Path, baseline: Path) -> None:
    now = write_run(tmp_path / "now", answers(wrong=200, moved=59))  # 118 of 2,000 rows: 5.9% churn
    (result,) = judged(now, baseline)
    assert result.outcome == "pass"
    assert result.why == "accuracy stayed at 90.0% (95% bounds -0.90 to +0.90); 1.50 points are allowed"
    (result,) = judged(now, baseline, "primary.max_drop=0.5pp")
    assert result.outcome == "refused"
    assert result.why == (
        "accuracy: 2,000 rows with 5.9% churn resolve 0.90 points at best; "
        "ask for a max_drop of at least that, or test on more rows"
    )


def test_a_clear_drop_fails_even_where_the_margin_could_not_be_shown(tmp_path: Path, baseline: Path) -> None:
    (result,) = judged(write_run(tmp_path / "now", answers(wrong=300, moved=59)), baseline, "primary.max_drop=0.5pp")
    assert result.outcome == "fail"


def test_a_drop_near_the_margin_is_inconclusive(tmp_path: Path, baseline: Path) -> None:
    (result,) = judged(write_run(tmp_path / "now", answers(wrong=228)), baseline)
    assert result.outcome == "inconclusive"


def test_other_metrics_by_the_paired_bootstrap(tmp_path: Path, baseline: Path) -> None:
    now = write_run(tmp_path / "now", answers(wrong=260))
    (result,) = judged(now, baseline, "primary=null", "mcc.max_drop=0.02")
    assert (result.rule, result.limit, result.outcome) == ("mcc.max_drop", "0.02", "fail")
    random = np.random.default_rng(5)
    before, after = answers(wrong=200), answers(wrong=260)
    drops = []
    for _ in range(400):
        rows = random.integers(0, len(TRUTH), len(TRUTH))
        drops.append(np.corrcoef(TRUTH[rows], before[rows])[0, 1] - np.corrcoef(TRUTH[rows], after[rows])[0, 1])
    assert (result.low, result.high) == pytest.approx(np.quantile(drops, [0.05, 0.95]), abs=0.003)


def test_rows_are_joined_by_id_whatever_their_order(tmp_path: Path, baseline: Path) -> None:
    order = np.random.default_rng(0).permutation(len(TRUTH))
    own = read_answers(baseline / "predictions" / f"{NAME}.parquet")
    again = joined(own, own.select([int(row) for row in order]), baseline="b")
    assert again.ids == own.ids
    assert (again.right == own.right).all()
    assert (again.outputs["logits"] == own.outputs["logits"]).all()


def test_rows_of_equal_content_are_joined_in_their_order(tmp_path: Path) -> None:
    ids = [str(row // 2) for row in range(20)]
    sides = [write_run(tmp_path / str(i), answers(wrong=2, rows=20), ids=ids) for i in range(2)]
    assert judged(*sides)[0].outcome == "pass"


def test_the_margin_is_narrow_where_only_the_precision_changed(tmp_path: Path) -> None:
    stages = {"student": "s1", "compress cut": "c1", "compress int8": "i1"}

    def run(name: str, stage: str, stages: dict[str, str]) -> Path:
        return write_run(
            tmp_path / name, answers(), stages=stages, change=lambda record: record["variants"][0].update(stage=stage)
        )

    before = run("before", "student+cut", stages)
    quantized = run("quantized", "student+cut+int8", stages)
    # A pass that this process does not know may have changed the weights.
    cut_otherwise = run("cut", "student+cut+int8", stages | {"compress cut": "c2"})
    retrained = run("retrained", "student+cut", stages | {"student": "s2"})
    limits = [judged(now, before)[0].limit for now in (quantized, cut_otherwise, retrained)]
    assert limits == ["0.50 pp", "1.50 pp", "1.50 pp"]


def test_absolute_limits(tmp_path: Path, baseline: Path) -> None:
    now = write_run(tmp_path / "now", answers(wrong=200))
    results = judged(now, baseline, "primary=null", "accuracy={min: 91%, max: 95%}", "f1.min=0.5")
    assert [(result.rule, result.outcome) for result in results] == [
        ("accuracy.min", "fail"), ("accuracy.max", "pass"), ("f1.min", "pass"),
    ]  # fmt: skip
    assert results[0].why == "accuracy is 90.0%, at least 91.0% is wanted"


def test_a_bare_record_is_told_and_not_judged(tmp_path: Path, baseline: Path) -> None:
    now = write_run(tmp_path / "now", answers(wrong=260))
    (result,) = judged(now, baseline / "record.json")
    assert (result.outcome, result.change) == ("informational", "-3.00 pp")
    assert result.why.endswith("record.json has no predictions, so accuracy is not compared row by row")


def test_one_example_shows_nothing(tmp_path: Path) -> None:
    before = write_run(tmp_path / "before", TRUTH[:1])
    now = write_run(tmp_path / "now", 1 - TRUTH[:1])
    (result,) = judged(now, before)
    assert (result.outcome, result.low) == ("refused", -math.inf)
    assert result.why == "accuracy: 1 row cannot show any margin to be kept; test on more rows"
    assert judged(before, before)[0].outcome == "pass"


def test_a_metric_without_variance(tmp_path: Path) -> None:
    """All right before, all wrong now: every resampling of the rows says the same."""
    right, wrong = (write_run(tmp_path / name, rows) for name, rows in (("right", TRUTH), ("wrong", 1 - TRUTH)))
    (result,) = judged(wrong, right, "primary=null", "f1.max_drop=10pp")
    assert (result.outcome, result.low, result.high) == ("fail", 1.0, 1.0)
    (result,) = judged(right, wrong, "primary=null", "f1.max_drop=10pp")
    assert (result.outcome, result.low, result.high) == ("pass", -1.0, -1.0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["acuracy.max_drop=1pp"], "acuracy: student.onnxruntime was not measured by that; did you mean 'accuracy'?"),
        (["accuracy.max_drop=0.5"], "accuracy.max_drop: 50 points are no margin for accuracy; half a percentage point"),
        (["accuracy.min=88"], "accuracy.min: accuracy is a share, never above 1; write it in %: 88%"),
        (["mcc.max_drop=auto"], "mcc.max_drop: auto is for shares, mcc is none; write mcc.max_drop=NUMBER"),
    ],
)
def test_rules_that_do_not_fit_the_metric(words: list[str], said: str, baseline: Path) -> None:
    with pytest.raises(KdcError) as caught:
        judged(baseline, baseline, *words)
    assert str(caught.value).startswith(said)


def test_a_baseline_without_the_metric(tmp_path: Path) -> None:
    before = write_run(
        tmp_path / "before", answers(), change=lambda record: record["variants"][0]["quality"]["metrics"].pop("f1")
    )
    now = write_run(tmp_path / "now", answers())
    with pytest.raises(KdcError, match=r"student.onnxruntime of .*before has no f1; save a baseline that has it"):
        judged(now, before, "f1.max_drop=1pp")


def test_other_test_rows_other_labels_other_predictions(tmp_path: Path, baseline: Path) -> None:
    shifted = [str(row + 500) for row in range(len(TRUTH))]
    other = write_run(tmp_path / "other", answers(), ids=shifted)
    with pytest.raises(KdcError, match=r"was tested on other rows: 1,500 of its 2,000 are among the 2,000 here"):
        judged(other, baseline)
    fewer = write_run(tmp_path / "fewer", answers(rows=1900))
    with pytest.raises(KdcError, match=r"1,900 of its 2,000 are among the 1,900 here"):
        judged(fewer, baseline)
    swapped = [str(row + 1 - 2 * (row % 2)) for row in range(len(TRUTH))]
    with pytest.raises(KdcError, match=r"tested with other labels on 2,000 of 2,000 rows"):
        judged(write_run(tmp_path / "swapped", answers(), ids=swapped), baseline)
    now = write_run(tmp_path / "now", answers(wrong=260))
    (now / "predictions" / f"{NAME}.parquet").write_bytes((baseline / "predictions" / f"{NAME}.parquet").read_bytes())
    with pytest.raises(KdcError, match=r"parquet comes to 90.0% accuracy, its record to 87.0%"):
        judged(now, baseline)
    (now / "predictions" / f"{NAME}.parquet").write_text("PAR1")
    with pytest.raises(KdcError, match=r"parquet is no predictions file \(ArrowInvalid\); run it again"):
        judged(now, baseline)


def test_nan_decides_nothing(baseline: Path) -> None:
    side = open_candidate(baseline)
    assert side.variant.quality is not None
    side.variant.quality.metrics["accuracy"].value = math.nan
    own = read_answers(baseline / "predictions" / f"{NAME}.parquet")
    with pytest.raises(KdcError, match=r"accuracy is nan in .*baseline; it decides nothing"):
        paired_change("accuracy", side, side, own, own)
