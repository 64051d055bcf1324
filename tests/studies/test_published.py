"""GPT-2 small is recognised by its answer, and by nothing else."""

import json
import threading

import pytest
import torch

from pellucid import AttentionConfig, Config, HookedTransformer, MLPConfig
from pellucid.model.wired import induction_pair
from pellucid.studies import published
from pellucid.studies.published import EXAMPLES, FIGURES, is_gpt2_small, published_figures
from tests.models import CONFIGS, config_of, model_of

EXAMPLE = json.loads(EXAMPLES.read_text())["examples"][0]
TOP = {top["token_id"]: top["probability"] for top in EXAMPLE["top10"]}


def answering(top: dict[int, float], *, act: str = "gelu_new") -> HookedTransformer:
    """A tiny model that answers every prompt with these probabilities, and spreads the rest over all other tokens."""
    attention = AttentionConfig(n_heads=1, d_head=2)
    config = Config(
        n_layers=1,
        d_model=2,
        d_vocab=50257,
        n_ctx=8,
        attention=attention,
        mlp=MLPConfig(d_mlp=2, act=act),
        unembed_bias=True,
    )
    model = HookedTransformer(config, seed=0, device="cpu")
    probabilities = torch.full((50257,), (1 - sum(top.values())) / (50257 - len(top)), dtype=torch.float64)
    for token, probability in top.items():
        probabilities[token] = probability
    with torch.no_grad():
        model.unembed.W_U.zero_(), model.unembed.b_U.copy_(probabilities.log())
    return model


def test_the_carried_file_is_the_reference(shared):
    assert EXAMPLES.read_text() == (shared / "data/gpt2-reference/examples.json").read_text()
    assert "Copyright (c) 2022 Polo Club" in (EXAMPLES.parent / "LICENSE-gpt2-examples.txt").read_text()


@pytest.mark.parametrize("act", ["gelu_new", "gelu", "gelu_pytorch_tanh"])
def test_a_model_with_the_answer_of_gpt2_small_is_recognised(act):
    model = answering(TOP, act=act)
    assert is_gpt2_small(model)
    assert published_figures(model, "induction") == FIGURES["induction"]
    assert published_figures(model, "no such study") == {}


@pytest.mark.parametrize(("by", "recognised"), [(0.0008, True), (-0.0008, True), (0.0012, False), (-0.0012, False)])
@pytest.mark.parametrize("place", [0, 5, 9])
def test_each_probability_must_agree_within_a_thousandth(place, by, recognised):
    token = list(TOP)[place]
    assert is_gpt2_small(answering(TOP | {token: TOP[token] + by})) is recognised


def test_another_token_among_the_first_ten_is_another_model():
    last, *_ = reversed(TOP)
    assert not is_gpt2_small(answering({token: p for token, p in TOP.items() if token != last} | {11: TOP[last]}))
    assert not is_gpt2_small(answering(TOP | {11: TOP[last] + 0.0005}))


@pytest.mark.parametrize("model", [*CONFIGS, "wired"])
def test_toys_are_not_recognised(model):
    if model == "wired":
        wired = induction_pair()
        found = HookedTransformer(wired.config, device="cpu")
        found.load_state_dict(wired.weights)
    else:
        found = model_of(model)
    assert not is_gpt2_small(found)
    assert published_figures(found, "induction") == {}


def test_a_random_model_of_the_shape_and_name_is_not_recognised():
    config = Config(
        n_layers=12,
        d_model=48,
        d_vocab=50257,
        n_ctx=1024,
        attention=AttentionConfig(n_heads=12, d_head=4),
        mlp=MLPConfig(d_mlp=192),
        tied=True,
    )
    model = HookedTransformer(config, seed=0, device="cpu")
    model.record = model.record.add(model="gpt2")
    assert not is_gpt2_small(model)


@pytest.mark.parametrize(
    "changes",
    [
        {"d_vocab": 50257, "n_ctx": 5},
        {"d_vocab": 50257, "d_vocab_out": 3},
        {"d_vocab": 50257, "n_layers": 0, "mlp": None},
    ],
)
def test_a_model_that_cannot_take_the_prompt_is_not_recognised(changes):
    assert not is_gpt2_small(model_of(config_of(**changes)))


def test_a_model_of_another_activation_is_not_recognised():
    assert not is_gpt2_small(answering(TOP, act="relu"))


@pytest.fixture
def steep(monkeypatch, tmp_path):
    """A model whose answer depends on the form of GELU, and a reference that has it in the exact form."""
    exact, tanh = (
        model_of(config_of(d_vocab=100, init_range=1.0, mlp=MLPConfig(d_mlp=14, act=act)))
        for act in ("gelu", "gelu_new")
    )
    for model in (exact, tanh):
        for block in model.blocks:  # where the forms differ by one part in thirty, and the neurons are all that counts
            block.mlp.W_in.data /= 10
            block.mlp.b_in.data -= 2.7
            block.mlp.W_out.data *= 1e5
    tokens = [3, 1, 4]
    probabilities, plain = (model(torch.tensor([tokens]))[0, -1].softmax(-1) for model in (exact, tanh))
    top = probabilities.topk(10)
    assert (probabilities - plain)[top.indices].abs().max() > 2e-3
    rows = [{"token_id": i, "probability": p} for i, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)]
    path = tmp_path / "examples.json"
    path.write_text(json.dumps({"examples": [{"token_ids": tokens, "top10": rows}]}))
    monkeypatch.setattr(published, "EXAMPLES", path)
    return tanh, plain


def test_the_run_has_exact_gelu_and_leaves_the_model_as_it_was(steep):
    model, plain = steep
    assert is_gpt2_small(model)
    assert torch.equal(model(torch.tensor([[3, 1, 4]]))[0, -1].softmax(-1), plain)
    assert model.board == []
    assert model.cfg.act_fn == "gelu_new"


def test_others_may_run_the_model_meanwhile(steep):
    model, plain = steep
    seen = []

    def run():
        for _ in range(20):
            seen.append(torch.equal(model(torch.tensor([[3, 1, 4]]))[0, -1].softmax(-1), plain))

    thread = threading.Thread(target=run)
    thread.start()
    found = [is_gpt2_small(model) for _ in range(10)]
    thread.join()
    assert all(found)
    assert all(seen)
    assert len(seen) == 20


def test_standing_hooks_that_change_the_answer_make_it_another_model(steep):
    model, _ = steep
    with model.hooks(fwd_hooks=[("mlp_out", lambda x, hook: x * 0)]):
        assert not is_gpt2_small(model)
