"""Every signal against what it should be, computed directly, on small models of eight kinds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from kdc.models.layers import last_linear
from kdc.models.nets import CNN, MLP, CNNConfig, MLPConfig
from kdc.models.taps import LENGTH, ROWS, Outline, Taps, outline
from kdc.models.undropped import UNDROPPED
from tests import tiny

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 3}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT = {"vocab_size": 40, "num_labels": 3, **ENDS}
TEXTS, TRANSFORMERS = ("bert", "gpt2", "distilbert", "modernbert"), ("bert", "gpt2", "distilbert", "modernbert", "vit")
ALL = {
    "logits", "hidden_states", "attentions", "queries", "keys", "values", "features", "input_embeddings",
    "input_gradients", "weights",
}  # fmt: skip
OF_ATTENTION = {"attentions", "queries", "keys", "values"}


def resnet() -> Any:
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[6, 8], depths=[1, 1], layer_type="basic", num_labels=3
    )
    config.image_size = 32
    return transformers.ResNetForImageClassification(config)


MODELS: dict[str, Callable[[], Any]] = {
    "bert": lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**SIZES, **TEXT)),
    "gpt2": lambda: transformers.GPT2ForSequenceClassification(
        transformers.GPT2Config(n_embd=16, n_head=2, n_layer=3, n_positions=32, **TEXT)
    ),
    "distilbert": lambda: transformers.DistilBertForSequenceClassification(
        transformers.DistilBertConfig(dim=16, n_heads=2, hidden_dim=24, n_layers=3, **TEXT)
    ),
    "modernbert": lambda: transformers.ModernBertForSequenceClassification(
        transformers.ModernBertConfig(**SIZES, **TEXT, cls_token_id=1, sep_token_id=2, local_attention=4)
    ),
    "vit": lambda: transformers.ViTForImageClassification(
        transformers.ViTConfig(**SIZES, image_size=8, patch_size=4, num_channels=2, num_labels=3)
    ),
    "resnet": resnet,
    "cnn": lambda: CNN(CNNConfig(channels=(4, 6), hidden_size=10, image_size=8, num_labels=3)),
    "mlp": lambda: MLP(MLPConfig(hidden_sizes=(12, 10), image_size=8, num_labels=3)),
}


def build(kind: str) -> Any:
    torch.manual_seed(0)
    return tiny.lively(MODELS[kind]()).double().eval()


def batch(model: Any, *, rows: int = 3, length: int = 6, padded: bool = True) -> dict[str, Tensor]:
    """Of texts the last is padded."""
    torch.manual_seed(1)
    if model.main_input_name == "pixel_values":
        side = model.config.image_size
        return {"pixel_values": torch.randn(rows, model.config.num_channels, side, side, dtype=torch.float64)}
    mask = torch.ones(rows, length, dtype=torch.long)
    if padded:
        mask[-1, 4:] = 0
    return {"input_ids": torch.randint(3, 40, (rows, length)) * mask, "attention_mask": mask}


def ask(model: Any, names: set[str], inputs: dict[str, Tensor] | None = None) -> dict[str, Any]:
    taps = Taps(model, names)
    try:
        return taps(inputs or batch(model))
    finally:
        taps.close()


def same(got: Any, wanted: Any) -> None:
    if isinstance(wanted, tuple | list):
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            same(one, other)
    else:
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_brings_what_it_has_and_nothing_else(kind: str) -> None:
    said = ask(build(kind), ALL)
    assert set(said) == (ALL if kind in TRANSFORMERS else ALL - OF_ATTENTION)


@pytest.mark.parametrize("kind", MODELS)
def test_logits_are_the_models_own(kind: str) -> None:
    model = build(kind)
    same(ask(model, {"logits", "features", "hidden_states"})["logits"], model(**batch(model)).logits)
    assert set(ask(model, {"features"})) == {"features"}


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_hidden_states_and_attentions_are_the_models_own(kind: str) -> None:
    model = build(kind)
    model.set_attn_implementation("eager")
    wanted = model(**batch(model), output_hidden_states=True, output_attentions=True)
    said = ask(model, {"hidden_states", "attentions"})
    assert (len(said["hidden_states"]), len(said["attentions"])) == (4, 3)
    for name in said:
        same(said[name], wanted[name])
    for layer in said["attentions"]:
        same(layer.sum(dim=-1), torch.ones(layer.shape[:-1], dtype=torch.float64))


@pytest.mark.parametrize("kind", ["bert", "gpt2", "distilbert"])
def test_training_drops_attention_behind_the_probabilities(kind: str) -> None:
    """The model computes as it does by itself, from the same random numbers; only what it tells of it differs."""
    model = build(kind).train()
    model.set_attn_implementation("eager")
    torch.manual_seed(2)
    alone = model(**batch(model), output_attentions=True)
    assert bool(((alone.attentions[0].sum(dim=-1) - 1).abs() > 0.1).any())
    torch.manual_seed(2)
    said = ask(model, {"logits", "attentions"})
    assert said["logits"].equal(alone.logits)
    for layer, dropped in zip(said["attentions"], alone.attentions, strict=True):
        same(layer.sum(dim=-1), torch.ones(layer.shape[:-1], dtype=torch.float64))
        kept = dropped != 0
        same(dropped[kept], layer[kept] / 0.9)


def test_hidden_states_of_convolutional_nets_are_the_maps_between_their_blocks() -> None:
    model = build("cnn")
    values = batch(model)["pixel_values"]
    maps = [values, model.layers[:4](values), model.layers[:8](values)]
    assert [tuple(m.shape[1:]) for m in maps] == [(1, 8, 8), (4, 4, 4), (6, 2, 2)]
    same(ask(model, {"hidden_states"})["hidden_states"], maps)
    model = build("resnet")
    values = batch(model)["pixel_values"]
    body = model.resnet
    stem = body.embedder(values)
    first = body.encoder.stages[0](stem)
    same(ask(model, {"hidden_states"})["hidden_states"], [stem, first, body.encoder.stages[1](first)])


def test_hidden_states_of_plain_nets_are_the_pixels_and_what_every_relu_gives() -> None:
    model = build("mlp")
    values = batch(model)["pixel_values"]
    wanted = [values, model.layers[:3](values), model.layers[:6](values)]
    same(ask(model, {"hidden_states"})["hidden_states"], wanted)
    assert (wanted[1] >= 0).all()


def of_bert(model: Any, layer: int, hidden: Tensor) -> list[Tensor]:
    attention = model.bert.encoder.layer[layer].attention.self
    return [attention.query(hidden), attention.key(hidden), attention.value(hidden)]


def of_distilbert(model: Any, layer: int, hidden: Tensor) -> list[Tensor]:
    attention = model.distilbert.transformer.layer[layer].attention
    return [attention.q_lin(hidden), attention.k_lin(hidden), attention.v_lin(hidden)]


def of_vit(model: Any, layer: int, hidden: Tensor) -> list[Tensor]:
    block = model.get_submodule(f"vit.layers.{layer}")
    normed = block.layernorm_before(hidden)
    attention = block.attention
    return [attention.q_proj(normed), attention.k_proj(normed), attention.v_proj(normed)]


def of_gpt2(model: Any, layer: int, hidden: Tensor) -> list[Tensor]:
    """One matrix [inputs, 3 x outputs]: the first third makes the queries."""
    block = model.transformer.h[layer]
    normed = block.ln_1(hidden)
    weight, bias = block.attn.c_attn.weight, block.attn.c_attn.bias
    return [normed @ weight[:, part] + bias[part] for part in (slice(0, 16), slice(16, 32), slice(32, 48))]


def of_modernbert(model: Any, layer: int, hidden: Tensor) -> list[Tensor]:
    """One matrix [3 x outputs, inputs]."""
    block = model.model.layers[layer]
    normed, weight = block.attn_norm(hidden), block.attn.Wqkv.weight
    return [normed @ weight[part].T for part in (slice(0, 16), slice(16, 32), slice(32, 48))]


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_queries_keys_and_values_are_what_the_attentions_own_matrices_make_of_its_input(kind: str) -> None:
    model = build(kind)
    said = ask(model, {"queries", "keys", "values", "hidden_states"})
    for layer in range(3):
        wanted = globals()[f"of_{kind}"](model, layer, said["hidden_states"][layer])
        same([said[name][layer] for name in ("queries", "keys", "values")], wanted)
    assert [len(said[name]) for name in ("queries", "keys", "values")] == [3, 3, 3]


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_queries_and_keys_give_the_attentions(kind: str) -> None:
    """All heads lie side by side in the width: softmax(q k' / sqrt(size)) of each."""
    model = build(kind)
    inputs = batch(model, padded=False)
    said = ask(model, {"queries", "keys", "attentions"}, inputs)
    for queries, keys, attentions in zip(said["queries"], said["keys"], said["attentions"], strict=True):
        per_head = [part.unflatten(-1, (2, 8)).transpose(1, 2) for part in (queries, keys)]
        scores = per_head[0] @ per_head[1].transpose(-1, -2) / math.sqrt(8)
        if kind == "gpt2":
            scores = scores.masked_fill(~torch.ones(6, 6, dtype=torch.bool).tril(), -torch.inf)
        same(attentions, scores.softmax(dim=-1))


def test_only_the_wanted_thirds_of_a_fused_matrix_are_brought() -> None:
    model = build("gpt2")
    said = ask(model, {"values"})
    assert set(said) == {"values"}
    same(said["values"], ask(model, {"queries", "keys", "values"})["values"])


def test_a_fused_matrix_whose_heads_share_keys_is_left_alone() -> None:
    """Its three parts have different widths: cut into thirds they would be nonsense."""
    config = transformers.GPTBigCodeConfig(n_embd=16, n_head=2, n_layer=2, n_positions=32, multi_query=True, **TEXT)
    assert ask(transformers.GPTBigCodeForSequenceClassification(config).eval(), {"queries", "keys", "values"}) == {}


@pytest.mark.parametrize("kind", MODELS)
def test_features_are_what_the_last_linear_reads(kind: str) -> None:
    model = build(kind)
    said = ask(model, {"features", "logits"})
    logits = last_linear(model)(said["features"])
    if kind == "gpt2":  # it answers at every token, and takes the last real one
        logits = logits[torch.arange(3), [5, 5, 3]]
    same(said["logits"], logits)
    assert said["features"].ndim == (3 if kind == "gpt2" else 2)


@pytest.mark.parametrize("kind", MODELS)
def test_input_embeddings_are_what_the_model_starts_from(kind: str) -> None:
    model = build(kind)
    inputs = batch(model)
    said = ask(model, {"input_embeddings"}, inputs)["input_embeddings"]
    same(said, model.get_input_embeddings()(inputs["input_ids"]) if kind in TEXTS else inputs["pixel_values"])


@pytest.mark.parametrize("kind", MODELS)
def test_input_gradients_against_finite_differences(kind: str) -> None:
    """Along random directions, of each row's largest logit."""
    model = build(kind)
    inputs = batch(model, padded=False)
    with torch.no_grad():
        said = ask(model, {"input_gradients", "input_embeddings"}, inputs)
    start, gradient = said["input_embeddings"].detach(), said["input_gradients"]

    def largest(values: Tensor) -> Tensor:
        into = {"inputs_embeds": values, "attention_mask": inputs["attention_mask"]} if kind in TEXTS else None
        return model(**(into or {"pixel_values": values})).logits.amax(dim=-1)

    step = 1e-4  # a smaller one drowns where a model rotates its queries in float32
    torch.manual_seed(2)
    with torch.no_grad():
        for _ in range(4):
            direction = torch.randn_like(start)
            slope = (largest(start + step * direction) - largest(start - step * direction)) / (2 * step)
            torch.testing.assert_close((gradient * direction).flatten(1).sum(dim=1), slope, rtol=1e-3, atol=1e-4)
    assert gradient.abs().max() > 1e-3
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["bert", "modernbert", "vit", "cnn"])
def test_a_gradient_with_respect_to_input_embeddings_can_itself_be_differentiated(kind: str) -> None:
    model = build(kind).requires_grad_(False)
    last_linear(model).requires_grad_(True)
    taps = Taps(model, {"input_embeddings", "logits"})
    said = taps(batch(model))
    [gradient] = torch.autograd.grad(said["logits"].sum(), said["input_embeddings"], create_graph=True)
    gradient.square().sum().backward()
    taps.close()
    assert last_linear(model).weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", MODELS)
def test_weights_are_the_parameters_of_linears_and_convolutions_outputs_first(kind: str) -> None:
    model = build(kind)
    weights = ask(model, {"weights"})["weights"]
    for name, weight in weights.items():
        module = model.get_submodule(name)
        assert weight.untyped_storage().data_ptr() == module.weight.untyped_storage().data_ptr()
        if isinstance(module, nn.Linear | nn.Conv2d):
            assert weight.shape[0] == len(module.weight)
        else:
            assert tuple(weight.shape) == (module.nf, module.nx)
    embeddings = {name for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    owners = {name.rpartition(".")[0] for name, p in model.named_parameters() if p.ndim > 1}
    assert set(weights) == {name for name in owners - embeddings if hasattr(model.get_submodule(name), "weight")}
    assert embeddings.isdisjoint(weights)


def hooks(model: nn.Module) -> int:
    """Those of taps: `transformers` leaves some of its own in a model that was asked for its hidden states."""
    all_hooks = [h for m in model.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    return sum(isinstance(getattr(getattr(hook, "func", hook), "__self__", None), Taps) for hook in all_hooks)


@pytest.mark.parametrize("kind", MODELS)
def test_closing_leaves_the_model_as_it_was(kind: str) -> None:
    model = build(kind)
    attention = model.config._attn_implementation
    taps = Taps(model, ALL)
    taps(batch(model))
    assert hooks(model) >= {"bert": 11, "gpt2": 5, "modernbert": 5}.get(kind, 1)
    if kind in TRANSFORMERS:
        assert (attention, model.config._attn_implementation) == ("sdpa", UNDROPPED)
    taps.close()
    assert hooks(model) == 0
    assert model.config._attn_implementation == attention


@pytest.mark.parametrize("names", [{"logits"}, {"hidden_states", "features"}, {"queries"}])
def test_attention_stays_fast_where_no_signal_needs_the_plain_way(names: set[str]) -> None:
    model = build("bert")
    Taps(model, names)
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("kind", MODELS)
def test_an_outline_shows_the_shapes_of_what_the_model_brings(kind: str) -> None:
    model = build(kind).train()
    vocabulary = "own" if kind in TEXTS else None
    seen = outline(model, ALL, name="it", vocabulary=vocabulary)
    assert model.training
    assert hooks(model) == 0
    if kind in TRANSFORMERS:
        assert model.config._attn_implementation == "sdpa"
    said = ask(model.eval(), ALL, batch(model, rows=ROWS, length=LENGTH))
    assert (seen.name, seen.vocabulary, seen.matrices) == ("it", vocabulary, tuple(said["weights"]))
    layers = {**said, "weights": tuple(said["weights"].values())}
    wanted = {name: value if isinstance(value, tuple) else (value,) for name, value in layers.items()}
    assert seen.shapes == {name: tuple(tuple(layer.shape) for layer in value) for name, value in wanted.items()}


@pytest.mark.parametrize("kind", MODELS)
def test_an_outline_without_weights_is_that_of_the_real_model(kind: str) -> None:
    with torch.device("meta"):
        empty = MODELS[kind]()
    assert outline(empty, ALL, name="it") == outline(build(kind), ALL, name="it")


def test_depth_and_width_of_an_outline() -> None:
    bert, cnn = outline(build("bert"), ALL, name="bert"), outline(build("cnn"), {"hidden_states"}, name="cnn")
    assert (bert.depth, cnn.depth) == (3, 2)
    assert (bert.width("hidden_states"), bert.width("attentions"), bert.width("features")) == (16, LENGTH, 16)
    assert [cnn.width("hidden_states", layer) for layer in range(3)] == [1, 4, 6]
    assert "features" in bert
    assert "features" not in cnn
    with pytest.raises(LookupError, match="no layered signal"):
        _ = Outline("nothing").depth


def test_attention_that_cannot_be_told_to_leave_dropout_out_is_no_signal() -> None:
    sizes = {**SIZES, "vocab_size": 40, "max_position_embeddings": 32}
    model = transformers.MPNetForSequenceClassification(transformers.MPNetConfig(**sizes))
    assert "attentions" not in outline(model, {"attentions", "hidden_states"}, name="it")
    assert "hidden_states" in outline(model, {"attentions", "hidden_states"}, name="it")


def test_projections_are_those_of_the_tokens_where_relative_positions_are_projected_too() -> None:
    sizes = {**SIZES, "vocab_size": 40, "max_position_embeddings": 32}
    config = transformers.DebertaV2Config(
        **sizes, relative_attention=True, share_att_key=True, pos_att_type=["c2p", "p2c"], position_buckets=8
    )
    seen = outline(transformers.DebertaV2ForSequenceClassification(config), {"queries", "keys"}, name="it")
    assert set(seen.shapes["queries"] + seen.shapes["keys"]) == {(ROWS, LENGTH, 16)}
