"""Name -> component, for every family that users can extend: one `Registry` a family, and plugin loading.

A component is a frozen pydantic model whose fields are its YAML (`Component`), or a plain class for families that have
no settings (tasks). A family's built-in modules are imported when it is first asked, so that importing `kdc` is cheap.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from kdc.errors import KdcError, did_you_mean

T = TypeVar("T")


class Component(BaseModel):
    """Settings and behaviour in one frozen model: its fields are its YAML, its methods do the work."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class Registry(Generic[T]):
    """The components of one family by name.

    `builtin` names the modules that register the shipped ones; they are imported on first look-up.
    """

    def __init__(self, family: str, builtin: Sequence[str]) -> None:
        self.family = family
        self._builtin = tuple(builtin)
        self._items: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        def add(item: type[T]) -> type[T]:
            known = self._items.get(name)
            # A module that is imported anew registers classes that are new too, yet the same.
            if known is not None and _home(known) != _home(item):
                raise KdcError(f"{self.family} '{name}' is registered twice ({known.__module__}, {item.__module__})")
            self._items[name] = item
            return item

        return add

    def __getitem__(self, name: str) -> type[T]:
        self._load()
        if name not in self._items:
            raise KdcError(f"no {self.family} is called '{name}'", did_you_mean(name, self._items))
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._items)

    def items(self) -> list[tuple[str, type[T]]]:
        self._load()
        return list(self._items.items())

    def _load(self) -> None:
        for module in self._builtin:  # costs nothing once they are in, and fails again where one could not be
            importlib.import_module(module)


def _home(item: type) -> tuple[str, str]:
    return item.__module__, item.__qualname__


def load_plugins(modules: Sequence[str]) -> None:
    """Import the modules named in `plugins=`; their `register` calls add to the families."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise KdcError(
                f"plugins: cannot import '{module}' ({error})", "install it or put its folder on PYTHONPATH"
            ) from error
