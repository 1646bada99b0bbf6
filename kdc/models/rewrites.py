"""A plan's rewrites while a model is lowered: what no answer depends on is left out of the graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from kdc.compress.plan import PrecisionPlan


@contextmanager
def rewritten(model: Any, plan: PrecisionPlan) -> Iterator[None]:
    """Within the block the model computes what the plan leaves of it."""
    from kdc.models.first_token import first_token_only

    with ExitStack() as stack:
        if "first_token" in plan.rewrites:
            stack.enter_context(first_token_only(model))
        yield
