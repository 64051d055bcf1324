"""Direct logit attribution: it sums exactly to what the model says, and each number is that of a plain loop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from pellucid.analysis import attribution, reading
from pellucid.analysis.attribution import SPLITS, Swapped, logit_attribution
from pellucid.base.errors import ArgumentError, TokenError, UnknownNameError
from pellucid.tasks.pairs import Pairs
from tests.models import CONFIGS, config_of, configs, model_of

PROMPTS = [[1, 2, 3, 4, 5], [6, 7, 8], [9, 1, 9, 1]]
PAIRS = Pairs.from_tokens(PROMPTS, PROMPTS, answer=[[3], [4, 5], [6]], wrong=[[7, 8], [9], [3]], group=["a", "b", "a"])


def answers(model, pairs=PAIRS):
    """(direction, bias, what the model says) of each prompt, one prompt after the other."""
    for i, prompt in enumerate(PROMPTS):
        right, wrong = (x[i][x[i] >= 0] for x in (pairs.answer, pairs.wrong))
        W_U, b_U, logits = (x.detach() for x in (model.W_U, model.b_U, model(torch.tensor([prompt]))[0, -1]))
        direction = W_U[:, right].mean(1) - W_U[:, wrong].mean(1)
        yield direction, b_U[right].mean() - b_U[wrong].mean(), logits[right].mean() - logits[wrong].mean()


def values(found, name="value"):
    return found.dataset[name].values


@settings(max_examples=30, deadline=None)
@given(configs())
def test_all_of_it_sums_to_what_the_model_says(config):
    model = model_of(config, dtype=torch.float64)
    expected = [float(said) for *_, said in answers(model)]
    for by in SPLITS:
        if by == "neuron" and config.mlp is None:
            continue
        found = logit_attribution(model, PAIRS, by=by)
        np.testing.assert_allclose(values(found, "total"), expected, rtol=0, atol=1e-10)
        summed = values(found)[:, -1] if by == "accumulated" else values(found).reshape(3, -1).sum(1)
        summed = summed + values(found, "constant") + (values(found, "rest") if by in ("head", "neuron") else 0)
        np.testing.assert_allclose(summed, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", CONFIGS)
def test_each_number_is_what_a_part_wrote_through_the_frozen_norm(kind):
    model = model_of(kind, dtype=torch.float64)
    found = {by: logit_attribution(model, PAIRS, by=by) for by in SPLITS if by != "neuron" or model.config.mlp}
    for i, (direction, bias, _) in enumerate(answers(model)):
        _, cache = model.run_with_cache(torch.tensor([PROMPTS[i]]))
        final = cache["resid_post", -1][:, -1]
        at_zero = model.ln_final.held(torch.zeros_like(final), model.ln_final.scale(final))

        def onto(x, final=final, at_zero=at_zero, direction=direction):
            return ((model.ln_final.held(x[None], model.ln_final.scale(final)) - at_zero) @ direction).item()

        assert values(found["head"], "constant")[i] == pytest.approx((at_zero @ direction + bias).item(), abs=1e-10)
        stack, labels = cache.accumulated_resid(incl_mid=True, pos_slice=-1, return_labels=True)
        assert values(found["accumulated"], "component").tolist() == labels
        np.testing.assert_allclose(values(found["accumulated"])[i], [onto(x[0]) for x in stack], atol=1e-10)
        stack = cache.decompose_resid(pos_slice=-1)
        np.testing.assert_allclose(values(found["component"])[i], [onto(x[0]) for x in stack], atol=1e-10)
        if kind == "bare":
            assert not values(found["head"]).any() and not values(found["neuron"])[:, 0].any()
            continue
        stack = cache.stack_head_results(pos_slice=-1)
        np.testing.assert_allclose(values(found["head"])[i].ravel(), [onto(x[0]) for x in stack], atol=1e-10)
        if model.config.mlp is not None:
            stack = cache.stack_neuron_results(-1, -1)
            np.testing.assert_allclose(values(found["neuron"])[i].ravel(), [onto(x[0]) for x in stack], atol=1e-10)


def test_cells_bear_the_names_that_people_know():
    model = model_of("gpt2")
    found = logit_attribution(model, PAIRS)
    assert values(found, "component").tolist() == ["embed", "pos_embed", "attn0", "mlp0", "attn1", "mlp1"]
    assert found.dims == ("prompt", "component") and found.unit == "logits"
    assert found.record.task == "direct logit attribution"
    assert found.record.settings == {"by": "component", "norm": "frozen", "at": "end", "metric": "LogitDiff"}
    assert values(found, "group").tolist() == ["a", "b", "a"]
    assert logit_attribution(model, PAIRS, by="head").sel(layer=1, head=2).labels == [
        f"prompt {i} 1.2" for i in range(3)
    ]
    assert logit_attribution(model, PAIRS, by="neuron").mean("prompt").top(1).label.startswith("L")


def test_some_layers_alone_leave_the_others_to_the_rest():
    model = model_of("gpt2", dtype=torch.float64)
    for by in ("head", "neuron"):
        whole, some = logit_attribution(model, PAIRS, by=by), logit_attribution(model, PAIRS, by=by, layer=[1])
        np.testing.assert_allclose(values(some), values(whole)[:, 1:], atol=1e-12)
        np.testing.assert_allclose(
            values(some, "rest"), values(whole, "rest") + values(whole)[:, 0].sum(-1), atol=1e-10
        )
        assert logit_attribution(model, PAIRS, by=by, layer=1).dims == whole.dims


def test_without_wrong_answers_it_is_the_logit():
    model = model_of("partly rotary", dtype=torch.float64)
    pairs = Pairs.from_tokens(PROMPTS, PROMPTS, answer=[3, 4, 5])
    found = logit_attribution(model, pairs)
    expected = [model(torch.tensor([p]))[0, -1, a].item() for p, a in zip(PROMPTS, (3, 4, 5), strict=True)]
    np.testing.assert_allclose(values(found).sum(1) + values(found, "constant"), expected, atol=1e-10)
    assert found.record.settings["metric"] == "Logit"


def test_prompts_may_go_through_one_by_one(monkeypatch):
    model = model_of("llama", dtype=torch.float64)
    together = logit_attribution(model, PAIRS, by="head")
    seen = []
    read = attribution._Asked.read
    monkeypatch.setattr(reading, "NUMBERS", 1)
    monkeypatch.setattr(
        attribution._Asked, "read", lambda self, pairs, *more: seen.append(len(pairs)) or read(self, pairs, *more)
    )
    np.testing.assert_allclose(values(logit_attribution(model, PAIRS, by="head")), values(together), atol=1e-12)
    assert seen == [1, 1, 1]


def test_a_model_without_layers_has_no_heads():
    model = model_of(config_of(n_layers=0), dtype=torch.float64)
    found = logit_attribution(model, PAIRS, by="head")
    assert found.shape == (3, 0, 4)
    np.testing.assert_allclose(values(found, "rest") + values(found, "constant"), values(found, "total"), atol=1e-10)
    assert logit_attribution(model, PAIRS, by="accumulated").shape == (3, 1)


def test_half_precision_is_read_in_full():
    found = logit_attribution(model_of("gpt2", dtype=torch.bfloat16), PAIRS)
    assert values(found).dtype == np.float32
    np.testing.assert_allclose(values(found).sum(1) + values(found, "constant"), values(found, "total"), atol=0.1)


def test_what_cannot_be_attributed_is_refused():
    model = model_of("gpt2")
    with pytest.raises(UnknownNameError, match="by must be one of component, head, neuron, accumulated, got 'heads'"):
        logit_attribution(model, PAIRS, by="heads")
    with pytest.raises(ArgumentError, match="attribution needs pairs with answers, these have none; give answer"):
        logit_attribution(model, Pairs.from_tokens(PROMPTS, PROMPTS))
    with pytest.raises(TokenError, match=r"ids of wrong must lie in 0\.\.16, got 17"):
        logit_attribution(model, Pairs.from_tokens(PROMPTS, PROMPTS, answer=1, wrong=17))
    with pytest.raises(ArgumentError, match="layer chooses among heads or neurons, and by is 'component'; leave it"):
        logit_attribution(model, PAIRS, layer=1)
    with pytest.raises(ArgumentError, match=r"layer must lie in 0\.\.1, got 2"):
        logit_attribution(model, PAIRS, by="head", layer=2)
    with pytest.raises(ArgumentError, match="by='neuron' needs a model with MLPs, and this model has attention only"):
        logit_attribution(model_of("attention only"), PAIRS, by="neuron")


def test_swapped_heads_write_what_they_do_elsewhere_and_the_scale_stays():
    """Literally: the patched run's outputs, along the answers' direction, by the scale of the run without."""
    model = model_of("gpt2", dtype=torch.float64)
    tokens, other = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]), torch.tensor([[4, 3, 2, 1], [8, 7, 6, 5]])
    pairs = Pairs.from_tokens(tokens, tokens, answer=[1, 2], wrong=[3, 4])
    found = logit_attribution(model, pairs, by="head", swapped=Swapped([(0, 1)], other)).values
    _, theirs = model.run_with_cache(other)

    def put_in(z, hook):
        z[:, :, 1] = theirs[hook.name][:, :, 1]
        return z

    with model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", put_in)]):
        _, cache = model.run_with_cache(tokens)
    _, plain = model.run_with_cache(tokens)
    for prompt, (right, wrong) in enumerate([(1, 3), (2, 4)]):
        scale = plain["ln_final.hook_scale"][prompt, -1]
        direction = (model.W_U[:, right] - model.W_U[:, wrong]) * model.ln_final.w
        direction = direction - direction.mean()
        for layer in range(2):
            written = torch.einsum("hd,hdm->hm", cache["z", layer][prompt, -1], model.blocks[layer].attn.W_O)
            np.testing.assert_allclose(found[prompt, layer], (written @ direction / scale).detach(), atol=1e-10)
