"""Attributions against their axioms, finite differences and a model whose attributions are known by hand."""

import re
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from kdc.export.modules import graph_callables
from kdc.measure import attribution
from kdc.measure.attribution import attribute, input_x_gradient, integrated_gradients
from kdc.report.settings import Attribution
from kdc.tasks.inference import predict_rows
from tests import tiny

ROWS = tiny.sentences(6)
TASK = tiny.task()


@pytest.fixture(scope="module")
def bert():
    return tiny.built_bert(ROWS)


def logits(built, task, rows):
    graphs = graph_callables(task.graphs(built.model, built.encoder, rows.select([0, 1])))
    return predict_rows(task, graphs, built.encoder, built.encoder.encode(rows))["logits"]


def without_input(built, rows):
    """The logits of each row with its word embeddings at zero."""
    embedding = built.model.get_input_embeddings()
    with embedding.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output)):
        return np.concatenate([logits(built, TASK, rows.select([i, i]))[:1] for i in range(len(rows))])


def total(pieces):
    return sum(share for _, share in pieces)


@pytest.mark.parametrize("answer", tiny.LABELS)
def test_integrated_gradients_of_a_text_are_complete(bert, answer):
    """Completeness (Sundararajan et al. 2017, proposition 1): shares add up to f(x) - f(nothing)."""
    number = tiny.LABELS.index(answer)
    found, notes = attribute(bert, TASK, ROWS, [answer] * len(ROWS), "integrated_gradients")
    assert notes == []
    expected = logits(bert, TASK, ROWS)[:, number] - without_input(bert, ROWS)[:, number]
    assert [total(pieces) for pieces in found] == pytest.approx(expected.tolist(), rel=0.011, abs=0.011)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_integrated_gradients_of_a_picture_are_complete(kind):
    task, rows = tiny.task("image-classification"), tiny.pictures(4)
    built = tiny.built_net(rows, kind)
    found, notes = attribute(built, task, rows, [rows.labels[0]] * 4, "integrated_gradients")
    assert notes == []
    black = tiny.Examples({"image": np.zeros_like(rows["image"]), "label": rows["label"]}, rows.labels)
    expected = logits(built, task, rows)[:, 0] - logits(built, task, black)[:, 0]
    assert [total(pieces) for pieces in found] == pytest.approx(expected.tolist(), rel=0.011, abs=0.011)
    assert [name for name, _ in found[0]][:2] == ["0,0", "0,1"]
    assert len(found[0]) == 64


def test_pieces_of_a_text_are_its_tokens(bert):
    (pieces,), _ = attribute(bert, TASK, ROWS.select([0]), ["positive"], "input_x_gradient")
    names = [name for name, _ in pieces]
    assert (names[0], names[-1]) == ("[CLS]", "[SEP]")
    assert "".join(names[1:-1]).replace("##", "") == ROWS["text"][0].replace(" ", "")


def test_input_x_gradient_is_the_directional_derivative_towards_nothing(bert):
    """Scaling one token's embedding by 1 - e changes the logit by -e times its share."""
    row = ROWS.select([0, 0])
    (pieces,), _ = attribute(bert, TASK, ROWS.select([0]), ["positive"], "input_x_gradient")
    embedding = bert.model.get_input_embeddings()
    for token in (1, 2):

        def scaled(module, inputs, output, token=token, e=1e-2):
            output = output.clone()
            output[:, token] *= 1 - e
            return output

        with embedding.register_forward_hook(scaled):
            lower = logits(bert, TASK, row)[0, 1]
        assert (logits(bert, TASK, row)[0, 1] - lower) / 1e-2 == pytest.approx(pieces[token][1], rel=0.1, abs=0.02)


def test_the_configuration_knows_every_method():
    assert set(get_args(Attribution)) == {"none", *attribution.METHODS}


def test_methods_by_hand():
    """f(x) = x0 * x1 + 3 x2 from zero to (2, 5, 1): gradients (5, 2, 3) at the point, half the first two on the way."""

    def f(points):
        return points[:, 0] * points[:, 1] + 3 * points[:, 2]

    point, nothing = torch.tensor([2.0, 5.0, 1.0]), torch.zeros(3)
    assert input_x_gradient(f, point, nothing)[0].tolist() == pytest.approx([10, 10, 3])
    assert integrated_gradients(f, point, nothing)[0].tolist() == pytest.approx([5, 5, 3])


def test_integrated_gradients_see_what_a_saturated_gradient_does_not():
    """Sensitivity (Sundararajan et al. 2017, section 2.1): f(x) = 1 - relu(1 - x) from 0 to 2."""

    def f(points):
        return 1 - nn.functional.relu(1 - points[:, 0])

    point, nothing = torch.tensor([2.0]), torch.tensor([0.0])
    assert input_x_gradient(f, point, nothing)[0].tolist() == [0.0]
    assert integrated_gradients(f, point, nothing)[0].tolist() == pytest.approx([1.0], abs=0.02)


def test_a_gap_that_no_number_of_steps_closes_is_told():
    """A ramp so steep that all points of the quadrature miss it: its whole height is missing."""

    def f(points):
        return 8 * torch.sigmoid(1e6 * (points[:, 0] - 0.3))

    found, gap = integrated_gradients(f, torch.tensor([1.0]), torch.tensor([0.0]))
    assert (found.tolist(), gap) == ([0.0], pytest.approx(1.0))


def test_rows_whose_shares_do_not_add_up_are_noted(bert, monkeypatch):
    monkeypatch.setattr(attribution, "STEPS", (1,))
    found, (note,) = attribute(bert, TASK, ROWS, ["positive"] * len(ROWS), "integrated_gradients")
    must = (logits(bert, TASK, ROWS) - without_input(bert, ROWS))[:, 1]
    gaps = [abs(total(pieces) - sum_) / max(abs(sum_), 1) for pieces, sum_ in zip(found, must, strict=True)]
    said = re.fullmatch(r"in (\d) of 6 rows the shares miss up to ([\d.]+)% of the evidence .*, after 1 steps", note)
    assert said is not None
    assert int(said[1]) == sum(gap > 0.01 for gap in gaps)
    assert float(said[2]) / 100 == pytest.approx(max(gaps), abs=0.002)
    assert attribute(bert, TASK, ROWS, ["positive"] * len(ROWS), "input_x_gradient")[1] == []


def test_large_pictures_are_summed_into_patches():
    task, rows = tiny.task("image-classification"), tiny.pictures(1, side=40)
    built = tiny.built_net(rows, "mlp")
    (pieces,), _ = attribute(built, task, rows, [rows.labels[1]], "input_x_gradient")
    assert len(pieces) == 14 * 14  # patches of 3 x 3 pixels
    assert pieces[-1][0] == "13,13"
