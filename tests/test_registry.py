"""Names of components: found when first asked for, told apart by where they come from."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from kdc.errors import KdcError
from kdc.registry import Registry

MODULE = """
from {home} import FAMILY

@FAMILY.register("{name}")
class Thing: ...
"""


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry[object]:
    """A family whose built-in module, `first_things`, can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    found: Registry[object] = Registry("thing", ["first_things"])
    monkeypatch.setattr(sys.modules[__name__], "FAMILY", found, raising=False)
    for module in ("first_things", "other_things"):
        (tmp_path / f"{module}.py").write_text(MODULE.format(home=__name__, name="plain"))
        monkeypatch.delitem(sys.modules, module, raising=False)
    return found


def test_built_in_modules_are_imported_when_first_asked(family: Registry[object]) -> None:
    assert "first_things" not in sys.modules
    assert list(family) == ["plain"]
    assert family["plain"].__module__ == "first_things"
    with pytest.raises(KdcError, match="no thing is called 'plane'; did you mean 'plain'"):
        family["plane"]


def test_a_module_that_failed_is_not_forgotten(family: Registry[object], tmp_path: Path) -> None:
    source = (tmp_path / "first_things.py").read_text()
    (tmp_path / "first_things.py").write_text("import a_package_that_nobody_has")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError):
            list(family)
    (tmp_path / "first_things.py").write_text(source)
    importlib.invalidate_caches()
    assert list(family) == ["plain"]


def test_the_same_name_from_elsewhere_is_refused(family: Registry[object]) -> None:
    assert list(family) == ["plain"]
    with pytest.raises(KdcError, match=r"thing 'plain' is registered twice \(first_things, other_things\)"):
        importlib.import_module("other_things")


def test_a_module_may_be_imported_anew(family: Registry[object]) -> None:
    before = family["plain"]
    importlib.reload(sys.modules["first_things"])
    assert family["plain"] is not before
