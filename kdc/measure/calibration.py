"""Calibration: whether answers are right as often as the model is sure of them."""

from __future__ import annotations

import numpy as np

from kdc.record import Calibration, CalibrationBin

BINS = 15


def calibration(confidences: np.ndarray, hits: np.ndarray, *, bins: int = BINS) -> Calibration:
    """Reliability diagram and expected calibration error (Guo et al. 2017, equations 1 to 3).

    `confidences` `[rows]` are of the answers given, in [0, 1]; `hits` `[rows]` say how right these are. The bins
    `(low, high]` are equally wide; zero belongs to the first.
    """
    number = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)  # [rows]
    found = []
    gap = 0.0
    for i in range(bins):
        inside = number == i
        entry = CalibrationBin(low=i / bins, high=(i + 1) / bins, n=int(inside.sum()))
        if entry.n:
            entry.confidence, entry.accuracy = float(confidences[inside].mean()), float(hits[inside].mean())
            gap += entry.n * abs(entry.confidence - entry.accuracy)
        found.append(entry)
    return Calibration(ece=gap / len(hits), bins=found)
