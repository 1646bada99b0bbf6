"""The bootstrap over rows: metrics on rows drawn with replacement, and how far they spread. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from kdc.measure.statistics import Interval

Rescore = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""Row numbers `[draws, rows]` -> every metric on those rows, `[draws]`."""


def resampled(rescore: Rescore, rows: int, *, resamples: int = 1000, seed: int = 0) -> dict[str, np.ndarray]:
    """Every metric `[resamples]` on rows drawn with replacement (Efron and Tibshirani 1993, chapter 6).

    The seed is fixed, so that variants measured on the same rows are resampled alike: what one scores minus what the
    other scores, draw by draw, is a resampled difference. A single row cannot be resampled: nothing comes back.
    """
    if rows < 2:
        return {}
    generator = np.random.default_rng(seed)
    # A chunk of draws at a time: a thousand resamples of 10,000 rows are 80 MB of row numbers.
    chunk = max(1, min(resamples, 1_000_000 // rows))
    scores: dict[str, list[np.ndarray]] = {}
    for start in range(0, resamples, chunk):
        draws = generator.integers(0, rows, size=(min(chunk, resamples - start), rows))
        for name, values in rescore(draws).items():
            scores.setdefault(name, []).append(values)
    return {name: np.concatenate(parts) for name, parts in scores.items()}


def percentile_interval(values: np.ndarray | None, *, confidence: float = 0.95) -> Interval | None:
    """The bootstrap's percentile interval (Efron and Tibshirani 1993, chapter 13) of resampled `values` `[resamples]`.

    None where nothing was resampled, or where the metric is not defined in every resample.
    """
    if values is None or not np.isfinite(values).all():
        return None
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
