"""The wired models do what they are wired to do, and nothing else."""

import pytest
import torch

from pellucid import HookedTransformer
from pellucid.analysis.heads import DUPLICATE, INDUCTION, PREVIOUS, role_scores
from pellucid.analysis.repeated import halves, predictions, repeated_tokens
from pellucid.base.errors import ConfigError
from pellucid.model.wired import Wired, induction_pair
from pellucid.text.vocabulary import integer_vocabulary


def model_of(wired: Wired) -> HookedTransformer:
    model = HookedTransformer(wired.config, integer_vocabulary(wired.config.d_vocab), device="cpu")
    model.load_state_dict(wired.weights)
    return model


def check(model: HookedTransformer, *, previous: str, induction: str) -> None:
    """It does the task, by these two heads and no other."""
    tokens = repeated_tokens(model, batch=3)
    first, second = halves(predictions(model, tokens).logprob, tokens)
    assert second.values.min() > -0.01
    assert first.values.max() < -2
    scores, controls = (part.mean("prompt") for part in role_scores(model, tokens, [INDUCTION, PREVIOUS, DUPLICATE]))
    found = {label for label, value in (scores - controls).items() if value > 0.1}
    assert found == {f"{induction} induction", f"{previous} previous token"}
    layer, head = map(int, induction.split("."))
    assert scores.sel(role="induction", layer=layer, head=head).item() > 0.99
    assert controls.sel(role="induction", layer=layer, head=head).item() < 0.01
    layer, head = map(int, previous.split("."))
    assert scores.sel(role="previous token", layer=layer, head=head).item() > 0.99


@pytest.mark.parametrize("noise", [0.0, 0.005])
def test_the_pair_of_gpt2_small_is_found_in_a_model_of_its_shape(noise):
    model = model_of(induction_pair(noise=noise))
    assert (model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_model) == (12, 12, 12 * model.cfg.d_head)
    check(model, previous="4.11", induction="5.5")


@pytest.mark.parametrize(
    ("shape", "previous", "induction"),
    [((2, 1), (0, 0), (1, 0)), ((2, 4), (0, 3), (1, 1)), ((4, 2), (0, 1), (3, 1))],
)
def test_the_pair_may_lie_anywhere(shape, previous, induction):
    model = model_of(induction_pair(*shape, previous=previous, induction=induction, d_head=12))
    check(model, previous="{}.{}".format(*previous), induction="{}.{}".format(*induction))


def test_without_the_previous_token_head_nothing_is_found():
    wired = induction_pair(2, 3, previous=(0, 2), induction=(1, 1), d_head=12)
    wired.weights["blocks.0.attn.W_O"][2] = 0
    model = model_of(wired)
    tokens = repeated_tokens(model, batch=3)
    assert role_scores(model, tokens, [INDUCTION]).score.sel(layer=1, head=1).values.max() < 0.01
    cache = model.run(tokens.tokens, reads=[("pattern", 1)]).cache
    assert cache["pattern", 1][:, 1, :, 0].min() > 0.99  # it rests on BOS


def test_the_weights_are_those_of_the_configuration_and_noise_follows_its_seed():
    first, again, other = (
        induction_pair(2, 3, previous=(0, 2), induction=(1, 1), noise=0.01, seed=seed) for seed in (0, 0, 1)
    )
    name = "blocks.0.attn.W_V"
    assert torch.equal(first.weights[name], again.weights[name])
    assert not torch.equal(first.weights[name], other.weights[name])
    assert torch.equal(first.weights[name][2], other.weights[name][2])  # the wired head has none
    assert first.weights[name][0].std() == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_head": 2}, "d_head must be 3 or more, so that there are tokens to tell apart, got 2"),
        ({"previous": (12, 0)}, "previous must be a head of 12 layers with 12 heads, got 12.0; count from 0"),
        ({"induction": (5, -1)}, "induction must be a head of 12 layers with 12 heads, got 5.-1; count from 0"),
        ({"previous": (5, 0)}, "must lie in an earlier layer than the induction head.* got 5.0 and 5.5"),
    ],
)
def test_what_cannot_be_wired_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        induction_pair(**changes)
