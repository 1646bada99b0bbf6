"""The JSON Schema of records, for whoever reads them without kdc: `python -m kdc.schema` writes it after a change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdc.record import RunRecord

FILE = Path(__file__).with_name("record.schema.json")


def record_schema() -> dict[str, Any]:
    """Made from the types in `kdc/record/`; `record.schema.json` beside this file holds it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **RunRecord.model_json_schema(by_alias=True)}


def as_text() -> str:
    return json.dumps(record_schema(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(as_text(), encoding="utf-8")
