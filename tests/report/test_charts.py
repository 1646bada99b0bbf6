"""Pictures: which points are on the front, where names and ticks go, what becomes of matplotlib's SVG."""

import re

import numpy as np
import pytest
from matplotlib.axes import Axes

from kdc.record import Calibration, CalibrationBin, Comparison, RunRecord, Stage
from kdc.report.charts import changes, labels, latency, pareto, svg, training


def point(name: str, latency: float, quality: float, **more: object) -> pareto.Point:
    return pareto.Point(name, "torch", latency, quality, None, 1000, **more)


def nothing_beats(points: list[pareto.Point], sign: int = 1) -> set[str]:
    """By the definition: no other point is as good in both and better in one."""

    def beats(a: pareto.Point, b: pareto.Point) -> bool:
        own, other = (a.latency, -sign * a.quality), (b.latency, -sign * b.quality)
        return own != other and own[0] <= other[0] and own[1] <= other[1]

    return {b.name for b in points if not any(beats(a, b) for a in points)}


@pytest.mark.parametrize("higher", [True, False])
def test_the_front_is_what_nothing_beats(higher: bool) -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        grid = generator.integers(1, 6, size=(8, 2))  # so coarse that ties happen
        points = [point(str(i), float(x), float(y)) for i, (x, y) in enumerate(grid)]
        found = pareto.front(points, higher_is_better=higher)
        assert {p.name for p in found} == nothing_beats(points, 1 if higher else -1)
        assert [p.latency for p in found] == sorted(p.latency for p in found)


def test_the_picture_of_a_run(text_record: RunRecord) -> None:
    on = pareto.scale(text_record)
    assert on is not None
    assert (on.metric, on.higher_is_better) == ("accuracy", True)
    points = [pareto.point(variant, on, variant.name) for variant in text_record.variants]
    picture = pareto.picture([p for p in points if p], on)
    assert picture.rows[2] == [
        "student+int8-onnxruntime",
        "onnxruntime",
        "1.47",
        "86.4%",
        "84.9–88.0",
        "17.8 MB",
        "yes",
    ]
    assert [row[-1] for row in picture.rows] == ["", "yes", "yes"]
    assert picture.svg != picture.narrow
    for drawing in (picture.svg, picture.narrow):
        assert drawing.count("student+int8-onnxruntime") == 1


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1.2, 15, [1.5, 2, 3, 5, 7, 10, 15]),
        (0.8, 300, [1, 3, 10, 30, 100, 300]),
        (0.011, 0.05, [0.015, 0.02, 0.03, 0.05]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, ticks: list[float]) -> None:
    assert svg.decimal_ticks(low, high) == pytest.approx(ticks)


def test_between_any_two_numbers_four_times_apart_there_are_ticks() -> None:
    for low in np.geomspace(1e-4, 1e4, 300):
        assert 3 <= len(svg.decimal_ticks(low, 4 * low)) <= 7


def names_of(drawing: str) -> dict[str, tuple[float, float]]:
    """The middle of each text of a drawing, by what it says."""
    found = re.findall(r'<text style="([^"]*)" x="([-\d.]+)" y="([-\d.]+)"[^>]*>([^<]+)</text>', drawing)
    middle = {"start": 0.5, "middle": 0.0, "end": -0.5}
    return {
        text: (
            float(x) + middle[anchor[1] if (anchor := re.search(r"text-anchor: (\w+)", style)) else "start"] * width,
            float(y),
        )
        for style, x, y, text in found
        for width in [len(text) * labels.LETTER]
    }


def test_names_keep_off_each_other() -> None:
    anchors = [labels.Anchor(1 + 0.01 * i, 1 + 0.003 * i, 8, f"variant {i}") for i in range(5)]

    def draw(axes: Axes) -> None:
        axes.set_xlim(0, 2)
        axes.set_ylim(0, 2)
        labels.place(axes, anchors)

    drawing = svg.sketch(draw, "k", width=600, height=400)
    places = [names_of(drawing)[f"variant {i}"] for i in range(5)]
    for i, (x, y) in enumerate(places):
        for other_x, other_y in places[:i]:
            assert abs(y - other_y) > 11 or abs(x - other_x) > 9 * labels.LETTER


def test_names_at_the_right_stay_apart_and_inside() -> None:
    def draw(axes: Axes) -> None:
        axes.set_ylim(0, 1)
        labels.at_right(axes, [(0.99, "a"), (0.99, "b"), (1.0, "c"), (0.5, "d")])

    places = names_of(svg.sketch(draw, "k", width=300, height=200))
    heights = sorted(places[name][1] for name in "abcd")
    assert min(np.diff(heights)) >= labels.LINE - 0.1
    assert heights[0] > 0


def test_the_svg_is_bare_and_its_ids_are_its_own() -> None:
    def draw(axes: Axes) -> None:
        axes.scatter([0, 1], [0, 1], color=svg.SERIES[0])
        axes.plot([0, 1], [1, 0], color=svg.BAD)
        axes.set_title("costs $5_{x}$ & <b>\x02 中")

    first, second = (svg.sketch(draw, key, width=200, height=100) for key in ("one", "two"))
    assert first.startswith(
        '<svg viewBox="0 0 200 100" role="img" aria-labelledby="one-title" aria-describedby="one-about">'
    )
    assert "costs $5_{x}$ &amp; &lt;b&gt; 中" in first
    for word in ("xmlns", "<style", "<metadata", "DOCTYPE", "font-family", "http"):
        assert word not in first
    assert "var(--series-1)" in first
    assert "var(--bad)" in first
    ids = [set(re.findall(r' id="([^"]+)"', drawing)) for drawing in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for drawing, own in zip((first, second), ids, strict=True):
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', drawing)) == own


def test_latency_pictures_have_a_row_a_variant_and_few_ticks(text_record: RunRecord) -> None:
    for variant in text_record.variants:
        variant.latency[0].samples = [[variant.latency[0].p50_ms + 0.001 * call for call in range(3000)]] * 2
    first, second = latency.pictures(text_record)
    assert first.title == "Batch 1 x 32 tokens"
    assert second.title == "100 rows end to end"
    assert first.rows[2][:2] == ["student+int8, onnxruntime", "1.47"]
    assert first.rows[2][5:] == ["2", "6000"]
    assert len(first.svg) < 120_000
    del text_record.variants[1].latency[1]
    assert len(latency.pictures(text_record)[1].rows) == 2


def stage(history: list[dict[str, float]]) -> Stage:
    train = {"epochs": 1, "steps": len(history), "samples_per_second": 1, "history": history}
    return Stage.model_validate({"name": "student", "key": "", "cached": False, "wall_seconds": 1, "train": train})


def test_the_audit_tells_weights_and_shares() -> None:
    history = [
        {"step": s, "loss": 3.0 / s, "kl": 2.0 / s, "kl_weighted": 2.0 / s, "hard": 2.0 / s, "hard_weighted": 1.0 / s}
        for s in range(1, 5)
    ]
    student = stage([*history, {"train_runtime": 3.0, "step": 4}])
    assert training.audit(student) == [
        ["kl", "2", "0.5", "1", "0.5", "67%"],
        ["hard", "2", "0.5", "0.5", "0.25", "33%"],
    ]
    loss, terms = training.pictures(student, "k")
    assert loss.head == ["step", "loss", "kl, weighted", "hard, weighted"]
    assert loss.rows[-1] == ["4", "0.75", "0.5", "0.25"]
    assert terms.head == ["step", "kl", "hard"]


def test_a_loss_with_negative_terms_or_none_is_a_line() -> None:
    negative = [{"step": s, "loss": -1.0, "kl": -2.0, "kl_weighted": -1.0} for s in range(1, 6)]
    (loss,) = training.pictures(stage(negative), "k")
    assert loss.description == "The loss by step."
    (bare,) = training.pictures(stage([{"step": s, "loss": 1.0} for s in range(1, 6)]), "k")
    assert bare.head == ["step", "loss"]


def test_scores_while_training_are_drawn_from_two_on() -> None:
    assert training.pictures(stage([{"step": 5, "eval_accuracy": 0.5}]), "k") == []
    (scores,) = training.pictures(stage([{"step": s, "eval_accuracy": 0.5, "eval_mcc": 0.1} for s in (5, 9)]), "k")
    assert scores.head == ["step", "accuracy", "mcc"]


def test_long_histories_are_thinned_in_the_table_and_keep_their_end() -> None:
    (loss,) = training.pictures(stage([{"step": s, "loss": 1.0 / s} for s in range(1, 101)]), "k")
    assert len(loss.rows) <= training.TABLE_ROWS
    assert loss.rows[-1] == ["100", "0.01"]


def difference(value: float, low: float, high: float) -> dict[str, object]:
    return {"value": value, "ci95": (low, high), "p": 0.01, "p_adjusted": 0.2, "test": "McNemar, exact"}


def test_groups_are_cut_to_the_largest_changes_and_all_are_in_the_table() -> None:
    groups = [
        {
            "by": "class", "group": f"class {i}", "n": 100 + i, "value": 0.9, "other": 0.9,
            "difference": difference(i / 100, -0.1, 0.1),
        }
        for i in range(-10, 10)
    ]  # fmt: skip
    groups += [{"by": "length", "group": "1–9", "n": 5, "value": 1, "other": 1, "difference": difference(0, 0, 0)}]
    raw = {"against": "teacher", "role": "teacher", "metrics": {}, "groups": groups}
    comparison = Comparison.model_validate(
        raw | {"churn": {"n": 1, "right_to_wrong": 0, "wrong_to_right": 0, "changed": 0}}
    )
    classes, lengths = changes.groups(comparison, "k")
    assert classes.title == "Recall by class"
    assert classes.description == "The 12 largest of 20 changes."
    assert "class -10 (90)" in classes.svg
    assert "class 0 (100)" not in classes.svg
    assert len(classes.rows) == 20
    assert classes.rows[0] == ["class -10", "90", "90.0%", "90.0%", "−10.0", "−10.0 to +10.0", "0.010", "0.200"]
    assert lengths.title == "Quality by length"


def test_reliability_leaves_out_empty_bins() -> None:
    bins = [
        CalibrationBin(low=0.0, high=0.5, n=0),
        CalibrationBin(low=0.5, high=1.0, n=8, confidence=0.75, accuracy=0.5),
    ]
    picture = changes.reliability("student", Calibration(ece=0.25, bins=bins), "k")
    assert picture.rows == [["50%–100%", "8", "75.0%", "50.0%"]]
    assert picture.description == "Expected calibration error 25.0%"
