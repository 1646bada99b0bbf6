"""Silence for libraries that talk while they work: their warnings and progress lines are not for kdc's users."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within the block: no Python warnings, no log records under ERROR, nothing on stdout. Errors still raise."""
    if "transformers" in sys.modules:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), Path(os.devnull).open("w") as null, contextlib.redirect_stdout(null):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(previous)
