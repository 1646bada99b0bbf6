"""report.html: a record as one page. Rendered from the record alone, whatever parts that lacks."""

from __future__ import annotations

from pathlib import Path

import yaml

from kdc.files import write_atomically
from kdc.record import RunRecord
from kdc.report import audit, changes, gain, ledger, summary, table
from kdc.report.charts import changes as change_charts
from kdc.report.charts import gain as gain_charts
from kdc.report.charts import latency as latency_charts
from kdc.report.charts import pareto, training
from kdc.report.charts.svg import Picture
from kdc.report.loading import loadable, loading_snippet
from kdc.report.page import render
from kdc.report.verdict import verdict


def write_html(record: RunRecord, path: Path) -> None:
    write_atomically(path, run_page(record))


def run_page(record: RunRecord) -> str:
    final = loadable(record)
    code = loading_snippet(final) if final else ""
    broken = changes.changes(record)
    tradeoff = _tradeoff(record)
    latency = latency_charts.pictures(record)
    trained = [
        (stage, training.pictures(stage, f"train-{number}"), training.audit(stage), audit.audit(stage))
        for number, stage in enumerate(record.stages)
        if stage.train
    ]
    reliability = [
        change_charts.reliability(variant.name, variant.quality.calibration, f"reliability-{number}")
        for number, variant in enumerate(record.variants)
        if variant.quality and variant.quality.calibration
    ]
    parts = {
        ("variants", "Variants"): record.variants,
        ("gain", "Gain" if record.controls else "Seeds"): gain.arms(record),
        ("tradeoff", "Trade-off"): tradeoff,
        ("latency", "Latency"): latency,
        ("changes", "Changes"): broken or reliability,
        ("training", "Training"): trained,
        ("stages", "Stages"): record.stages,
        ("load", "Loading"): code,
        ("setup", "Setup"): True,
    }
    return render(
        "run.html.jinja",
        title=record.run.name or record.run.id,
        sections=[named for named, content in parts.items() if content],
        record=record,
        verdict=verdict(record),
        tiles=summary.tiles(record),
        variants=summary.variants(record),
        more_about_variants=[
            ledger.ledger(record),
            summary.metrics(record),
            summary.robustness(record),
            summary.files(record),
            summary.kernels(record),
            summary.parity(record),
        ],
        gain=gain if gain.arms(record) else None,
        gains=gain_charts.pictures(record),
        unheard=audit.unheard,
        tradeoff=tradeoff,
        latency=latency,
        changes=broken,
        overview=changes.overview(broken),
        reliability=reliability,
        trained=trained,
        stages=summary.stages(record),
        talkative=summary.talkative(record),
        loading={"name": final.name, "code": code} if final and code else None,
        legends={
            "latency": latency_charts.LEGEND,
            "groups": change_charts.GROUPS_LEGEND,
            "reliability": change_charts.RELIABILITY_LEGEND,
        },
        facts=summary.facts(record),
        packages=sorted(record.environment.packages.items()) if record.environment else [],
        config=yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True) if record.config else "",
    )


def _tradeoff(record: RunRecord) -> Picture | None:
    """Nothing where there is no second variant to trade against."""
    on = pareto.scale(record)
    found = [pareto.point(variant, on, table.model_name(variant)) for variant in record.variants] if on else []
    points = [point for point in found if point is not None]
    return pareto.picture(points, on) if on and len(points) > 1 else None
