"""report.html, from whole, old, failed, empty and hostile records."""

import base64
import hashlib
import re
from pathlib import Path

import pytest

from kdc.record import RunRecord
from kdc.report import summary
from kdc.report.html import run_page, write_html
from kdc.report.verdict import verdict
from tests.report.pages import Page, check

GOLDEN = Path(__file__).parent.parent / "golden"
NASTY = "<script>alert('x')</script> & \"$5_{x}$\" \x01"


@pytest.fixture(scope="module")
def golden_page() -> Page:
    return check(run_page(RunRecord.load(GOLDEN / "record.json")))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a test is about what there is to draw, not how it looks."""
    for module in ("changes", "gain", "latency", "pareto", "training"):
        monkeypatch.setattr(
            f"kdc.report.charts.{module}.sketch",
            lambda draw, key, **_: f'<svg role="img" aria-labelledby="{key}-title"></svg>',
        )


def sections(page: Page) -> list[str | None]:
    return [attributes.get("id") for attributes in page.all("section")]


def test_a_whole_record_has_every_section(golden_page: Page) -> None:
    wanted = ["variants", "gain", "tradeoff", "latency", "changes", "training", "stages", "load", "setup"]
    assert sections(golden_page) == wanted
    links = [link["href"] for link in golden_page.all("a")]
    assert links == ["#main", *(f"#{name}" for name in wanted)]


def test_the_verdict_stands_before_all_sections(golden_page: Page) -> None:
    record = RunRecord.load(GOLDEN / "record.json")
    assert golden_page.text.index(verdict(record)) < golden_page.text.index("Quality, size and latency are those")


def test_what_broke_is_shown(golden_page: Page) -> None:
    text = " ".join(golden_page.text.split())
    assert "−3.3 points −9.1 to +2.5" in text
    assert "Right before, wrong now: 1 of 3 rows" in text
    assert "Wait for a task & its <result>; costs $5 or $6" in text
    assert "Is asyncio, now answered json (81% sure), before asyncio. Row 7." in text
    assert "result +0.7, wait −0.3, task +0.1" in text
    classes = [attributes.get("class") for attributes in golden_page.all("b")]
    assert {"for-4", "not-2"} <= set(classes)
    assert "Holm over 4 tests" in text
    assert "Expected calibration error 3.1%" in text
    assert "Quality on perturbed rows" in text


def test_training_tells_each_term_before_and_after_its_weight(golden_page: Page) -> None:
    text = " ".join(golden_page.text.split())
    assert re.search(r"kl [\d.]+ [\d.]+ 1 [\d.]+ \d+%", text)
    assert re.search(r"hard [\d.]+ [\d.]+ 0\.5 [\d.]+ \d+%", text)


def test_pictures_hold_their_numbers_as_text_and_as_a_table(golden_page: Page) -> None:
    assert golden_page.source.count("<svg ") == golden_page.source.count("</svg>") >= 5
    assert ">student+int8<" in golden_page.source.replace("</text>", "<")
    assert "The numbers of: accuracy against latency" in golden_page.source
    assert "DejaVu" not in golden_page.source
    assert "var(--series-1)" in golden_page.source
    assert not re.search(r"#0000[0-9a-f]{2}", golden_page.source), "a colour that is no variable of the page"


def test_only_its_own_script_may_run(golden_page: Page) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", golden_page.source, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [m["content"] for m in golden_page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy == (f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'")


def test_old_records_render_without_the_parts_that_came_later() -> None:
    page = check(run_page(RunRecord.load(GOLDEN / "first.json")))
    assert sections(page) == ["variants", "tradeoff", "latency", "training", "stages", "load", "setup"]


@pytest.mark.parametrize(
    "part", ["environment", "dataset", "stages", "controls", "timing", "baseline", "config", "notes", "variants"]
)
def test_any_optional_part_may_lack(undrawn: None, part: str) -> None:
    raw = RunRecord.load(GOLDEN / "record.json").model_dump(by_alias=True)
    del raw[part]
    check(run_page(RunRecord.model_validate(raw)))


@pytest.mark.parametrize(
    "part", ["artifact", "parameters", "macs", "kernels", "quality", "memory", "latency", "comparisons", "replicates"]
)
def test_any_part_of_a_variant_may_lack(undrawn: None, part: str) -> None:
    raw = RunRecord.load(GOLDEN / "record.json").model_dump(by_alias=True)
    for variant in raw["variants"][1:]:
        del variant[part]
    check(run_page(RunRecord.model_validate(raw)))


def test_a_failed_run_shows_its_error_and_what_there_is(failed_record: RunRecord) -> None:
    page = check(run_page(failed_record))
    assert "The run failed in stage measure: timing student: killed; free some memory" in page.text
    assert sections(page) == ["variants", "training", "stages", "load", "setup"]


def test_what_a_pass_did_to_many_layers_stands_below_the_stages(text_record: RunRecord) -> None:
    few, many = ["one", "two", "three"], [f"layer.{number}: cut" for number in range(4)]
    text_record.stages[0].notes, text_record.stages[1].notes = few, many
    assert [row[4] for row in summary.stages(text_record).rows[:2]] == ["one; two; three", "4 notes, below"]
    text = check(run_page(text_record)).text
    assert f"{text_record.stages[1].name}: 4 notes" in text
    assert all(text.count(note) == 1 for note in many)


@pytest.mark.parametrize("status", ["running", "failed", "ok"])
def test_a_run_without_variants(status: str) -> None:
    run = {"id": "abc", "command": "kdc run", "started_at": "now", "status": status}
    page = check(run_page(RunRecord.model_validate({"run": run})))
    assert sections(page) == ["setup"]
    assert "now" in page.text


def test_images_and_metrics_that_are_no_shares(image_record: RunRecord) -> None:
    for variant in image_record.variants:
        assert variant.quality is not None
        variant.quality.metrics = {"perplexity": variant.quality.metrics["accuracy"].model_copy(update={"value": 12.5})}
    check(run_page(image_record))


def test_text_from_data_does_nothing() -> None:
    """A label, a text, a name, a note, an error: each is text, in the page and in the pictures."""
    record = RunRecord.load(GOLDEN / "record.json")
    record.run.name = record.run.command = record.run.error = NASTY
    record.notes = [NASTY]
    assert record.dataset is not None
    record.dataset.labels = [NASTY]
    record.baseline = None
    for control in record.controls:
        control.description = NASTY
    for variant in record.variants:
        variant.name = f"{variant.name}{NASTY}"
        for comparison in variant.comparisons:
            comparison.against = NASTY
            for group in comparison.groups:
                group.group = NASTY
            for flip in comparison.flips:
                flip.id = flip.truth = flip.answer = flip.other = NASTY
                flip.inputs = {NASTY: NASTY}
                flip.attributions = {NASTY: [(NASTY, 1.0)]}
    page = check(run_page(record))
    assert len(page.all("script")) == 1
    assert "<script>alert" not in page.source
    assert page.text.count("<script>alert('x')</script>") > 10


def test_pictures_among_the_rows_and_where_they_were_looked_at(undrawn: None) -> None:
    record = RunRecord.load(GOLDEN / "record.json")
    (flip,) = record.variants[1].comparisons[0].flips
    flip.inputs = {"image": "data:image/png;base64,iVBORw0KGgo="}
    flip.attributions = {"student": [(f"{i},{j}", i - j / 2) for i in range(4) for j in range(4)]}
    page = check(run_page(record))
    alts = [image["alt"] or "" for image in page.all("img")]
    assert alts[0] == "image of row 7, which is asyncio"
    assert alts[1].startswith("Where the picture of row 7 spoke for the answer of student")
    assert "data:text/html" not in page.source


def test_an_address_that_is_no_picture_is_text(undrawn: None) -> None:
    record = RunRecord.load(GOLDEN / "record.json")
    record.variants[1].comparisons[0].flips[0].inputs = {"image": "https://example.org/x.png"}
    page = check(run_page(record))
    assert page.all("img") == []


def test_a_large_record_stays_below_two_megabytes() -> None:
    record = RunRecord.load(GOLDEN / "record.json")
    student = record.variants[1]
    flips = [student.comparisons[0].flips[0].model_copy(update={"row": row}) for row in range(500)]
    for flip in flips:
        flip.inputs = {"text": "word " * 100}
        flip.attributions = {name: [("word", 0.5)] * 100 for name in ("a", "b")}
    student.comparisons[0].flips = flips
    student.latency[0].samples = [[1.0 + call % 7 for call in range(2000)]] * 10
    record.variants = [student.model_copy(update={"name": f"student{number}"}) for number in range(8)]
    check(run_page(record))


def test_the_same_record_makes_the_same_page() -> None:
    record = RunRecord.load(GOLDEN / "first.json")
    assert run_page(record) == run_page(record)


def test_written_whole(text_record: RunRecord, tmp_path: Path) -> None:
    write_html(text_record, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
