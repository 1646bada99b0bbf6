"""Which of the modules that a pass could change it does change: shell patterns of their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from kdc.errors import KdcError


def chosen(
    pass_name: str, eligible: Iterable[str], include: Sequence[str], exclude: Sequence[str]
) -> tuple[list[str], Mapping[str, str]]:
    """The names to change, in their order, and of the others the pattern that left them out.

    KdcError where there is nothing to change, or where a pattern names none of the modules.
    """
    names = list(eligible)
    if not names:
        raise KdcError(f"compress.{pass_name}: the model has no module that it could change", "leave the pass out")
    for key, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise KdcError(
                    f"compress.{pass_name}.{key}: '{pattern}' names none of the modules that {pass_name} would change",
                    f"they are called like {', '.join(names[-3:])}",
                )
    kept, left = [], {}
    for name in names:
        if pattern := next((one for one in exclude if fnmatchcase(name, one)), ""):
            left[name] = f"exclude: {pattern}"
        elif include and not any(fnmatchcase(name, one) for one in include):
            left[name] = f"include: {', '.join(include)}"
        else:
            kept.append(name)
    if not kept:
        raise KdcError(f"compress.{pass_name}: include and exclude leave no module to change", "exclude fewer")
    return kept, left
