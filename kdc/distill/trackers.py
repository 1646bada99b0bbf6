"""Trackers that a training reports to, each into the run's own folder and without a network.

What a training logs (its loss and terms, the validation) goes to `transformers`' callbacks, which read where to from
the environment. What the user's environment says already stands: `WANDB_MODE=online`, `MLFLOW_TRACKING_URI=...`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PROJECT = "kdc"


@contextmanager
def reporting(trackers: Sequence[str], folder: Path, name: str) -> Iterator[None]:
    """Within the block the callbacks of these trackers write into `folder`; `name` tells the run's trainings apart."""
    if not trackers:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    if "trackio" in trackers:  # it reads its folder when it is imported, and the runs of a sweep have one process
        for module in [module for module in sys.modules if module.partition(".")[0] == "trackio"]:
            del sys.modules[module]
    added = {key: value for key, value in _places(folder, name).items() if key not in os.environ}
    os.environ |= added
    try:
        yield
    finally:
        if "wandb" in trackers and "wandb" in sys.modules:
            sys.modules["wandb"].finish()  # the next training's callback would go on with this one's run
        for key in added:
            del os.environ[key]


def _places(folder: Path, name: str) -> dict[str, str]:
    return {
        "TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard" / name),
        "WANDB_DIR": str(folder),  # it makes a folder `wandb` there
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_PROJECT": PROJECT,
        "MLFLOW_TRACKING_URI": (folder / "mlflow").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",  # plain files are enough here, and mlflow-skinny has no database
        "MLFLOW_EXPERIMENT_NAME": PROJECT,
        "TRACKIO_DIR": str(folder / "trackio"),
    }
