"""Ways to compute the same answers with less, opened around whatever runs or lowers a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from kdc.errors import KdcError
from kdc.models.batch_norm import batch_norms_folded
from kdc.models.first_token import first_token_only

REWRITES: dict[str, Callable[[Any], AbstractContextManager[Any]]] = {
    "first_token": first_token_only,
    "fold_batch_norm": batch_norms_folded,
}


@contextmanager
def rewritten(model: Any, names: Sequence[str]) -> Iterator[None]:
    """Within the block the model computes in these ways; KdcError where it cannot."""
    with ExitStack() as stack:
        for name in names:
            if stack.enter_context(REWRITES[name](model)) is False:
                raise KdcError(f"compress.{name}: a {type(model).__name__} cannot be computed so", f"leave {name} out")
        yield
