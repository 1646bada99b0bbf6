"""What the teacher was worth, in words, tables and pictures; absent where nothing was compared."""

import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kdc.record import Control, Gain, Replicate, RunRecord
from kdc.report import gain as texts
from kdc.report.charts import gain as charts
from kdc.report.console import print_report
from kdc.report.html import run_page
from kdc.report.markdown import markdown
from kdc.report.pages import save_run
from kdc.report.table import Cell
from tests.report.pages import check


def gained(value: float, ci95: tuple[float, float] | None, verdict: str, **more: Any) -> Gain:
    settings: dict[str, Any] = {"seeds": 3, "n": 1821, "resampled": ["seeds", "examples"]} | more
    return Gain(value=value, ci95=ci95, verdict=verdict, **settings)


def replicates(*accuracies: float) -> list[Replicate]:
    return [Replicate(seed=seed, metrics={"accuracy": value}, key="k") for seed, value in enumerate(accuracies)]


@pytest.fixture
def compared(text_record: RunRecord) -> RunRecord:
    """Three seeds of the student and of both controls."""
    text_record.variants[2].replicates = replicates(0.864, 0.869, 0.861)
    text_record.controls = [
        Control(
            name="hard labels",
            description="no teacher",
            replicates=replicates(0.851, 0.854, 0.85),
            gains={"accuracy": gained(0.013, (0.006, 0.02), "gain"), "mcc": gained(0.03, None, "no interval")},
        ),
        Control(
            name="from scratch",
            description="no teacher, other weights",
            replicates=replicates(0.801, 0.812),
            gains={"accuracy": gained(0.06, (0.05, 0.07), "gain")},
        ),
    ]
    return text_record


def printed(record: RunRecord) -> str:
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        print_report(record, console)
    return " ".join(captured.get().split())


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (
            gained(0.013, (0.006, 0.02), "gain"),
            "the teacher was worth +1.3 points of accuracy [0.6, 2.0] over hard labels (3 seeds, 1,821 rows)",
        ),
        (
            gained(0.002, (-0.005, 0.009), "no gain within noise"),
            "no gain within noise: +0.2 points of accuracy [−0.5, 0.9] over hard labels (3 seeds, 1,821 rows)",
        ),
        (
            gained(-0.008, (-0.013, -0.003), "harm"),
            "the teacher cost 0.8 points of accuracy [0.3, 1.3] against hard labels (3 seeds, 1,821 rows)",
        ),
        (
            gained(1.0, None, "no interval"),
            "+100.0 points of accuracy over hard labels, without an interval (3 seeds, 1,821 rows)",
        ),
        (
            gained(0.013, (0.006, 0.02), "gain", seeds=1, resampled=["examples"]),
            "the teacher was worth +1.3 points of accuracy [0.6, 2.0] over hard labels "
            "(one seed, so seeds were not varied, 1,821 rows)",
        ),
    ],
)
def test_each_verdict_is_a_sentence(gain: Gain, said: str) -> None:
    assert texts.sentence("accuracy", gain, "hard labels") == said


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (gained(-1.2, (-1.9, -0.5), "gain", higher_is_better=False), "the teacher was worth −1.200 of perplexity ["),
        (
            gained(1.2, (0.5, 1.9), "harm", higher_is_better=False),
            "the teacher cost 1.200 of perplexity [0.500, 1.900]",
        ),
    ],
)
def test_of_what_is_better_when_less_a_gain_is_negative_and_said_to_be_one(gain: Gain, said: str) -> None:
    told = texts.sentence("perplexity", gain, "hard labels")
    assert told.startswith(said)
    assert "(less is better; 3 seeds" in told


def test_an_end_that_is_not_zero_does_not_read_as_zero() -> None:
    close = gained(0.005, (0.0003, 0.0097), "gain")
    assert "+0.50 points of accuracy [0.03, 0.97] over" in texts.sentence("accuracy", close, "hard labels")
    nothing = gained(0.0, (0.0, 0.0), "no gain within noise")
    assert "noise: 0.0 points of accuracy [0.0, 0.0] over" in texts.sentence("accuracy", nothing, "hard labels")


def test_console_markdown_and_page_say_it(compared: RunRecord) -> None:
    told = "the teacher was worth +1.3 points of accuracy [0.6, 2.0] over hard labels (3 seeds, 1,821 rows)"
    scratch = (
        "the teacher was worth +6.0 points of accuracy [5.0, 7.0] over training from scratch (3 seeds, 1,821 rows)"
    )
    page = check(run_page(compared))
    for text in (printed(compared), markdown(compared), page.text):
        assert told in text
        assert scratch in text
    assert "accuracy over 3 seeds: student+int8-onnxruntime 86.5% ± 0.4, hard labels 85.2% ± 0.2" in printed(compared)
    assert "## What the teacher was worth\n\n- the teacher" in markdown(compared)
    assert {"gain-seeds-title", "gain-intervals-title"} <= {a.get("id") for _, a in page.elements}


def test_the_table_has_every_seed_and_the_gain_over_each_control(compared: RunRecord) -> None:
    found = texts.grid(compared)
    assert list(found.head) == ["arm", Cell("mean", "accuracy"), "sd", "seed 0", "seed 1", "seed 2", "gain over it"]
    assert list(found.rows) == [
        [Cell("student+int8-onnxruntime"), "86.5%", "0.4", "86.4%", "86.9%", "86.1%", Cell("-")],
        [
            Cell("hard labels", "no teacher"), "85.2%", "0.2", "85.1%", "85.4%", "85.0%",
            Cell("+1.3 points", "+0.6 to +2.0"),
        ],
        [
            Cell("from scratch", "no teacher, other weights"), "80.7%", "0.8", "80.1%", "81.2%", "-",
            Cell("+6.0 points", "+5.0 to +7.0"),
        ],
    ]  # fmt: skip
    (line,) = re.findall(r"^\| hard labels.*$", markdown(compared), flags=re.MULTILINE)
    assert line.endswith("| 85.0% | +1.3 points (+0.6 to +2.0) |")
    assert [row[1] for row in texts.all_gains(compared).rows] == ["accuracy", "mcc", "accuracy"]


def test_the_pictures_hold_what_the_table_does(compared: RunRecord) -> None:
    seeds, gains = charts.pictures(compared)
    assert seeds.rows[2] == ["from scratch", "80.1%", "81.2%", "-"]
    assert "86.5% ± 0.4" in seeds.svg
    assert gains.rows[0] == ["hard labels", "+1.3 points", "+0.6 to +2.0", "gain"]
    assert "var(--good)" in gains.svg
    compared.controls[0].gains["accuracy"].verdict = compared.controls[1].gains["accuracy"].verdict = "harm"
    assert "var(--bad)" in charts.pictures(compared)[1].svg


def test_gains_without_an_interval_are_not_drawn(compared: RunRecord) -> None:
    for control in compared.controls:
        control.gains["accuracy"].ci95 = None
    assert [picture.key for picture in charts.pictures(compared)] == ["gain-seeds"]


def test_seeds_without_controls_are_summed_up_and_nothing_is_said_of_the_teacher(compared: RunRecord) -> None:
    compared.controls = []
    assert list(texts.grid(compared).head)[-1] == "seed 2"
    page = check(run_page(compared))
    assert "What another seed changes" in page.text
    for text in (printed(compared), markdown(compared), page.text):
        assert "teacher was worth" not in text
    assert "accuracy over 3 seeds: student+int8-onnxruntime 86.5% ± 0.4" in printed(compared)


def test_one_seed_with_a_control_has_no_deviation(compared: RunRecord) -> None:
    compared.variants[2].replicates = compared.variants[2].replicates[:1]
    compared.controls = compared.controls[:1]
    control = compared.controls[0]
    control.replicates = control.replicates[:1]
    control.gains["accuracy"] = gained(0.013, (0.006, 0.02), "gain", seeds=1, resampled=["examples"])
    del control.gains["mcc"]
    assert [row[2] for row in texts.grid(compared).rows] == ["-", "-"]
    assert "hold for other test rows; seeds were not varied" in check(run_page(compared)).text
    assert "±" not in printed(compared)


def test_a_run_without_seeds_and_controls_has_no_such_part(text_record: RunRecord) -> None:
    text_record.variants[2].replicates = replicates(0.864)
    page = check(run_page(text_record))
    assert "gain" not in [attributes.get("id") for attributes in page.all("section")]
    assert (texts.gain_verdict(text_record), texts.in_a_line(text_record)) == ([], "")
    assert "worth" not in markdown(text_record)


def test_arms_whose_variants_were_not_measured_go_by_their_own_metric(compared: RunRecord) -> None:
    for variant in compared.variants:
        variant.quality = None
    assert texts.primary(compared) == "accuracy"
    assert len(texts.gain_verdict(compared)) == 2


def test_the_saved_record_holds_the_sentences(compared: RunRecord, tmp_path: Path) -> None:
    save_run(compared, tmp_path)
    assert RunRecord.load(tmp_path).gain_verdict == texts.gain_verdict(compared)
    assert len(texts.gain_verdict(compared)) == 2


def test_where_students_learn_from_one_another_it_is_their_peers_that_are_told_of(compared: RunRecord) -> None:
    compared.config = {**compared.config, "distill": {"peers": {"peer": {}}}}
    assert texts.gain_verdict(compared)[0].startswith("its peers were worth +1.3 points of accuracy")
