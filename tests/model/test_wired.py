"""The wired models do what they are wired to do, and nothing else."""

import pytest
import torch

from pellucid import HookedTransformer
from pellucid.analysis.heads import DUPLICATE, INDUCTION, PREVIOUS, role_scores
from pellucid.analysis.repeated import halves, predictions, repeated_tokens
from pellucid.base.errors import ConfigError
from pellucid.model.wired import Wired, indirect_object, induction_pair, skip_trigram
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
        ({"previous": (12, 0)}, "previous-token must be a head of 12 layers with 12 heads, got 12.0; count from 0"),
        ({"induction": (5, -1)}, "induction must be a head of 12 layers with 12 heads, got 5.-1; count from 0"),
        (
            {"previous": (5, 0)},
            "previous-token head must lie in an earlier layer than the induction head.* 5.0 and 5.5",
        ),
    ],
)
def test_what_cannot_be_wired_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        induction_pair(**changes)


def names_prompts(n: int, *, length: int, n_names: int, d_vocab: int, seed: int = 0) -> tuple[torch.Tensor, list[int]]:
    """``[n length]`` prompts in which one of two names, at any places, is repeated; and the other name."""
    random = torch.Generator().manual_seed(seed)
    rows, answers = [], []
    for _ in range(n):
        row = torch.randint(2 + n_names, d_vocab, (length,), generator=random)
        a, b = (2 + torch.randperm(n_names, generator=random)[:2]).tolist()
        first, second, third = sorted((1 + torch.randperm(length - 2, generator=random)[:3]).tolist())
        again = bool(torch.randint(0, 2, (1,), generator=random))
        row[first], row[second], row[third] = a, b, a if again else b
        row[0], row[-1] = 0, 1
        rows.append(row)
        answers.append(b if again else a)
    return torch.stack(rows), answers


IOI = {"n_layers": 4, "n_heads": 3, "duplicate": (0, 2), "inhibition": (1, 0), "mover": (3, 1)}


@pytest.mark.parametrize(("shape", "noise"), [({}, 0.0), (IOI, 0.0), (IOI, 0.003)])
@pytest.mark.parametrize("length", [6, 14])
def test_the_indirect_object_is_named_wherever_the_names_stand(shape, noise, length):
    wired = indirect_object(**shape, n_names=9, noise=noise)
    model = model_of(wired)
    tokens, answers = names_prompts(60, length=length, n_names=9, d_vocab=wired.config.d_vocab)
    logits = model(tokens)[:, -1]
    assert logits.argmax(-1).tolist() == answers
    best = logits.topk(2).values
    assert (best[:, 0] - best[:, 1]).min() > 5


def test_its_heads_attend_as_their_roles_say():
    model = model_of(indirect_object(n_names=5))
    tokens = torch.tensor([[0, 4, 7, 3, 8, 9, 4, 8, 1]])
    pattern = model.run(tokens, reads="pattern").cache
    assert pattern["pattern", 0][0, 0, 6, 1] > 0.99  # the second 4 sees the first
    assert pattern["pattern", 0][0, 0, [1, 3, 8], 0].min() > 0.99  # others rest on BOS
    assert pattern["pattern", 1][0, 1, 8, 6] > 0.99  # END sees the repeat
    assert pattern["pattern", 1][0, 1, :8, 0].min() > 0.99
    assert pattern["pattern", 2][0, 0, 8, 3] > 0.99  # END sees the name that is not repeated


def test_without_the_inhibition_head_both_names_are_as_likely():
    wired = indirect_object()
    wired.weights["blocks.1.attn.W_O"][1] = 0
    tokens = torch.tensor([[0, 4, 11, 7, 12, 4, 13, 1]])
    logits = model_of(wired)(tokens)[0, -1]
    assert abs(logits[4] - logits[7]) < 0.1
    assert min(logits[4], logits[7]) > logits[[2, 3, 5, 6, 8, 9]].max() + 5


TRIPLES = {(5, 9): 3, (5, 11): 3, (6, 9): 4, (7, 12): 8}


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_skip_trigrams_are_said_and_nothing_else(noise):
    model = model_of(skip_trigram(TRIPLES, 2, 3, head=(1, 2), noise=noise))
    random = torch.Generator().manual_seed(0)
    for (first, second), third in TRIPLES.items():
        tokens = torch.randint(13, 20, (20, 9), generator=random)
        tokens[:, 0], tokens[:, -1] = 0, second
        assert (model(tokens)[:, -1].argmax(-1) != third).all()
        tokens[torch.arange(20), torch.randint(1, 8, (20,), generator=random)] = first
        assert (model(tokens)[:, -1].argmax(-1) == third).all()
    assert model.run(torch.tensor([[0, 5, 12]]), reads="pattern").cache["pattern", 1][0, 2, 2, 0] > 0.99


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: skip_trigram({}), "triples must have one entry at least"),
        (lambda: skip_trigram({(5, 0): 3}), "tokens of a triple must lie in 1..19, got 0; 0 is BOS"),
        (lambda: skip_trigram({(5, 9): 3, (5, 8): 4}), "must say the same, got 3 and 4 after 5"),
        (
            lambda: skip_trigram({(5, 9): 3}, head=(1, 0)),
            "must be a head of 1 layers with 2 heads, got 1.0",
        ),
        (lambda: indirect_object(n_names=1), "n_names must be 2 or more.* got n_names=1"),
        (
            lambda: indirect_object(mover=(1, 0)),
            "S-inhibition head must lie in an earlier layer than the name-mover",
        ),
        (lambda: indirect_object(duplicate=(0, 5)), "duplicate-token must be a head of 3 layers with 2 heads, got 0.5"),
    ],
)
def test_circuits_that_cannot_be_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
