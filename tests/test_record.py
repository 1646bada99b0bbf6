"""The record as an interface: old ones load, no field is renamed, its schema is the one that ships."""

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from pydantic import BaseModel

from kdc import schema
from kdc.errors import KdcError
from kdc.record import RunRecord

GOLDEN = Path(__file__).parent / "golden"


def parts(value: object) -> Iterator[BaseModel]:
    """A record and all that it is made of."""
    if isinstance(value, BaseModel):
        yield value
        value = [getattr(value, name) for name in type(value).model_fields]
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from parts(each)


def test_no_field_was_renamed() -> None:
    """A field that the golden record has and no type knows is one that readers of old records would miss."""
    for name in ("record.json", "first.json"):
        for part in parts(RunRecord.load(GOLDEN / name)):
            unknown = set(part.model_extra or {})
            assert not unknown, f"{type(part).__name__} has no field {unknown} any more; add it to the golden record"


def test_the_golden_record_has_every_field() -> None:
    have: dict[type[BaseModel], set[str]] = {}
    for part in parts(RunRecord.load(GOLDEN / "record.json")):
        have.setdefault(type(part), set()).update(part.model_fields_set)
    for model, fields in have.items():
        assert fields >= set(model.model_fields), f"{model.__name__}: give the golden record the new fields"
    defined = {
        model for model in _models(BaseModel) if model.__module__.startswith("kdc.record") and model.model_fields
    }
    assert set(have) == defined


def _models(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)


def test_values_are_where_readers_look_for_them() -> None:
    record = RunRecord.load(GOLDEN / "record.json")
    teacher, student = record.variants
    assert (record.run.status, record.run.seed, record.baseline) == ("ok", 0, "teacher.torch")
    assert teacher.quality is not None
    assert teacher.quality.calibration is not None
    assert teacher.quality.calibration.bins[1].accuracy == 0.85
    assert student.quality is not None
    assert student.quality.metrics["accuracy"].primary
    comparison = student.comparisons[0]
    assert comparison.metrics["accuracy"].ci95 == (-0.0912, 0.0245)
    assert comparison.churn.right_to_wrong == 3
    assert comparison.flips[0].attributions["teacher.torch"][1] == ("task", 0.9)
    assert student.latency[0].versus[0].against == "teacher.torch"
    assert record.timing is not None
    assert record.timing.noise_floor == 0.012


def test_the_schema_in_the_package_is_that_of_the_types() -> None:
    assert schema.FILE.read_text(encoding="utf-8") == schema.as_text(), "run `python -m kdc.schema`"


@pytest.mark.parametrize("name", ["record.json", "first.json"])
def test_golden_records_are_valid(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema.record_schema())
    jsonschema.validate(json.loads((GOLDEN / name).read_text()), schema.record_schema())


@pytest.mark.parametrize(
    "change", [{"schema": "kdc.record/2"}, {"run": {"id": "x"}}, {"variants": [{"name": 3}]}, {"baseline": 1}]
)
def test_the_schema_refuses_what_is_no_record(change: dict[str, object]) -> None:
    raw = json.loads((GOLDEN / "record.json").read_text()) | change
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(raw, schema.record_schema())


def test_what_is_loaded_is_saved_as_it_was(tmp_path: Path) -> None:
    RunRecord.load(GOLDEN / "record.json").save(tmp_path / "record.json")
    assert json.loads((tmp_path / "record.json").read_text()) == json.loads((GOLDEN / "record.json").read_text())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"schema": "kdc.record/2", "new": []}', "kdc.record/2 is newer than this kdc reads (kdc.record/1); upgrade"),
        ('{"schema": "kdc.record/10"}', "kdc.record/10 is newer than this kdc reads (kdc.record/1); upgrade"),
        ('{"schema": "kdc.record/0"}', "is damaged: schema: Input should be 'kdc.record/1'; run it again"),
        ('{"schema": "kdc.record/x"}', "is damaged: schema: Input should be 'kdc.record/1'; run it again"),
        ('{"schema": "kdc.record/"}', "is damaged: schema: Input should be 'kdc.record/1'; run it again"),
        ('{"schema": "kdc.record/1", "run"', "is damaged: it is not JSON"),
        ('{"schema": "kdc.record/1", "run": {}}', "is damaged: run.id: Field required"),
        ('{"schema": "other/1"}', "there is no record of a run in"),
        ("[1, 2]", "there is no record of a run in"),
        ("\udcff", "is damaged: it is not JSON"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "record.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(KdcError) as refused:
        RunRecord.load(tmp_path)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 2


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KdcError, match=r"there is no record of a run in .*; name the folder of a run, or its"):
        RunRecord.load(tmp_path)
    with pytest.raises(KdcError, match="there is no record of a run"):
        RunRecord.load(tmp_path / "nowhere")
