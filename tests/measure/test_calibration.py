import numpy as np
import pytest

from kdc.measure.calibration import calibration


def test_by_hand():
    # Bins (0.2, 0.4], (0.4, 0.6] and (0.8, 1]: gaps |0.3 - 1|, |0.55 - 0.5| and |0.95 - 1|.
    confidences, hits = np.array([0.3, 0.5, 0.6, 0.9, 1.0]), np.array([1, 0, 1, 1, 1.0])
    found = calibration(confidences, hits, bins=5)
    assert found.ece == pytest.approx((1 * 0.7 + 2 * 0.05 + 2 * 0.05) / 5)
    assert [b.n for b in found.bins] == [0, 1, 2, 0, 2]
    assert (found.bins[1].confidence, found.bins[1].accuracy) == (0.3, 1.0)
    assert (found.bins[0].confidence, found.bins[0].accuracy) == (None, None)
    assert [(b.low, b.high) for b in found.bins][-1] == (0.8, 1.0)


def test_against_numpys_histograms_and_with_15_bins_of_equal_width():
    generator = np.random.default_rng(0)
    confidences = generator.uniform(0.2, 1, size=2000)
    hits = (generator.random(2000) < confidences**2).astype(float)
    found = calibration(confidences, hits)
    edges = np.linspace(0, 1, 16)
    n = np.histogram(confidences, edges)[0]
    sure, right = (np.histogram(confidences, edges, weights=w)[0] for w in (confidences, hits))
    assert [b.n for b in found.bins] == n.tolist()
    assert found.ece == pytest.approx(np.abs(sure - right).sum() / 2000)


def test_a_model_that_knows_itself_has_next_to_no_error():
    generator = np.random.default_rng(1)
    confidences = generator.uniform(0.5, 1, size=20_000)
    assert calibration(confidences, (generator.random(20_000) < confidences).astype(float)).ece < 0.015


def test_edges_fall_into_the_bin_below_and_one_row_is_enough():
    assert [b.n for b in calibration(np.array([0.0, 0.5, 1.0]), np.ones(3), bins=2).bins] == [2, 1]
    assert calibration(np.array([0.7]), np.array([0.0])).ece == pytest.approx(0.7)
