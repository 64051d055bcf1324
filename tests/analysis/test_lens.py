"""A lens says what the model says when a state stands in the place of the final stream; each number, by hooks."""

import numpy as np
import pytest
import torch

from pellucid.analysis import reading
from pellucid.analysis.lens import SITES, logit_lens
from pellucid.base.errors import ArgumentError, MisreadWarning, TokenError, UnknownNameError
from pellucid.measurement import Measurement
from pellucid.pretrained.processing import Processing, process
from pellucid.tasks.pairs import Pairs
from tests.models import CONFIGS, config_of, model_of, tokens_of

POINTS = {"resid": "hook_resid_pre", "attn_out": "hook_attn_out", "mlp_out": "hook_mlp_out", "head": "attn.hook_result"}


def instead(model, tokens, state):
    """Log-probabilities where a state stands in the place of the final stream, by a hook."""
    last = f"blocks.{model.config.n_layers - 1}.hook_resid_post"
    return model.run_with_hooks(tokens, fwd_hooks=[(last, lambda x, hook: state)]).detach().log_softmax(-1)


def by_bias(model, layer):
    """What the biases of values and of the norm before make each head write, ``[head d_model]``."""
    block, attn = model.blocks[layer], model.blocks[layer].attn
    out = []
    for head, W in enumerate(attn.W_O):
        kv = head * len(attn.W_V) // len(attn.W_O)
        value = (0 if attn.b_V is None else attn.b_V[kv]) + getattr(
            block.ln1, "b", torch.zeros(10).double()
        ) @ attn.W_V[kv]
        out.append(value @ W)
    return torch.stack(out).detach()


def literal(model, tokens, site):
    """``[layer][head]`` -> log-probabilities, one head for sites without heads."""
    names = [f"blocks.{layer}.{POINTS[site]}" for layer in range(model.config.n_layers)]
    last = f"blocks.{model.config.n_layers - 1}.hook_resid_post"
    _, cache = model.run_with_cache(tokens, names_filter=[*names, last])
    if site == "head":
        return [
            [instead(model, tokens, x) for x in (cache[name] - by_bias(model, layer)).unbind(2)]
            for layer, name in enumerate(names)
        ]
    return [[instead(model, tokens, cache[name])] for name in ([*names, last] if site == "resid" else names)]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("kind", CONFIGS)
def test_every_number_is_that_of_a_run_with_the_state_in_the_final_place(kind, site):
    model, tokens = model_of(kind, dtype=torch.float64), tokens_of(kind)
    if site == "mlp_out" and model.config.mlp is None:
        pytest.skip("this one has attention only")
    found = logit_lens(model, tokens, site=site, answer=[3, 5], k=4)
    own = model(tokens).detach().log_softmax(-1)
    for layer, heads in enumerate(literal(model, tokens, site)):
        for head, log_p in enumerate(heads):
            at = (slice(None), layer, slice(None)) + ((head,) if site == "head" else ())
            answer = log_p[torch.arange(2), :, torch.tensor([3, 5])]
            kl = (own.exp() * (own - log_p)).sum(-1)
            np.testing.assert_allclose(found.probability.values[at], answer.exp(), atol=1e-12)
            np.testing.assert_array_equal(found.rank.values[at], (log_p > answer[..., None]).sum(-1))
            np.testing.assert_allclose(found.kl.values[at], kl, atol=1e-10)
            best = log_p.topk(4)
            torch.testing.assert_close(found.shares[at], best.values.exp(), rtol=0, atol=1e-12)
            assert torch.equal(found.ids[at], best.indices)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_last_layer_says_what_the_model_says(kind):
    model, tokens = model_of(kind, dtype=torch.float64), tokens_of(kind)
    found = logit_lens(model, tokens, k=CONFIGS[kind].d_vocab)
    shares = torch.empty_like(found.shares[:, -1]).scatter(-1, found.ids[:, -1], found.shares[:, -1])
    torch.testing.assert_close(shares, model(tokens).detach().softmax(-1), rtol=0, atol=1e-12)
    assert found.target == "prediction" and torch.equal(found.targets, model(tokens).argmax(-1))
    assert not found.rank.values[:, -1].any() and found.kl.values[:, -1].max() == 0
    assert found.layers == [0, 1, 2] and found.record.settings["target"] == "prediction"


def test_the_norm_is_recomputed_so_that_a_states_length_says_nothing():
    """Which tells it from direct logit attribution, where the scale is the run's."""
    model, tokens = model_of("gpt2", dtype=torch.float64), tokens_of()
    before = logit_lens(model, tokens, site="attn_out", answer=3).probability.values
    with torch.no_grad():
        model.blocks[1].attn.W_O.mul_(10)
        model.blocks[1].attn.b_O.mul_(10)
    np.testing.assert_allclose(
        logit_lens(model, tokens, site="attn_out", answer=3).probability.values[:, 1], before[:, 1], rtol=1e-3
    )


def test_what_is_asked_about_is_said():
    model, tokens = model_of("gpt2", dtype=torch.float64), tokens_of()
    log_p = model(tokens).detach().log_softmax(-1)
    following = logit_lens(model, tokens, target="next")
    expected = log_p[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0].exp()
    np.testing.assert_allclose(following.probability.values[:, -1, :-1], expected, atol=1e-12)
    assert np.isnan(following.probability.values[:, :, -1]).all() and np.isnan(following.rank.values[:, :, -1]).all()
    assert not np.isnan(following.kl.values).any() and following.record.settings["target"] == "next"
    one = logit_lens(model, tokens, answer=3)
    np.testing.assert_allclose(one.probability.values[:, -1], log_p[..., 3].exp(), atol=1e-12)
    assert one.target == "answer" and (one.targets == 3).all()


def test_prompts_of_several_lengths_are_read_as_each_alone():
    model = model_of("partly rotary", dtype=torch.float64)
    prompts = [[1, 2, 3, 4, 5], [6, 7, 8]]
    pairs = Pairs.from_tokens(prompts, prompts, answer=[3, 4], group=["a", "b"])
    together = logit_lens(model, pairs)
    for i, prompt in enumerate(prompts):
        alone = logit_lens(model, prompt, answer=[3, 4][i])
        for name in ("probability", "rank", "kl"):
            both = getattr(together, name).values[i], getattr(alone, name).values[0]
            np.testing.assert_allclose(both[0][:, : len(prompt)], both[1], atol=1e-12)
            assert np.isnan(both[0][:, len(prompt) :]).all()
        assert together.top(1, -1, prompt=i)[0][0] == alone.top(1, -1)[0][0]
    assert together.kl.dataset["group"].values.tolist() == ["a", "b"] and (together.ids[1, :, 3:] == -1).all()


@pytest.mark.parametrize("site", SITES)
def test_processing_the_weights_changes_nothing(site):
    model, tokens = model_of("gpt2", dtype=torch.float64), tokens_of()
    with torch.no_grad():
        for block in model.blocks:
            block.attn.b_V.normal_()
            block.ln1.b.normal_()
            block.attn.W_O.add_(1.0)
    before = logit_lens(model, tokens, site=site, answer=3)
    process(model, Processing())
    after = logit_lens(model, tokens, site=site, answer=3)
    np.testing.assert_allclose(after.probability.values, before.probability.values, atol=1e-10)
    np.testing.assert_allclose(after.kl.values, before.kl.values, atol=1e-8)


@pytest.mark.parametrize("site", ["resid", "head"])
def test_some_positions_are_read_as_among_all(site):
    model = model_of("llama", dtype=torch.float64)
    prompts = Pairs.from_tokens([[1, 2, 3, 4, 5], [6, 7, 8]], [[1, 2, 3, 4, 5], [6, 7, 8]], answer=[3, 4])
    whole, some = logit_lens(model, prompts, site=site), logit_lens(model, prompts, site=site, positions=[0, -1])
    read = np.array([[1, 0, 0, 0, 1], [1, 0, 1, 0, 0]], dtype=bool)
    for name in ("probability", "rank", "kl"):
        one, all_ = (np.moveaxis(getattr(x, name).values, 2, 1) for x in (some, whole))
        np.testing.assert_allclose(one[read], all_[read], atol=1e-12)
        assert np.isnan(one[~read]).all()
    head = 1 if site == "head" else None
    assert some.top(0, -1, head=head, prompt=1)[0][0] == whole.top(0, 2, head=head, prompt=1)[0][0]
    assert some.record.settings["positions"] == [0, -1]
    with pytest.raises(ArgumentError, match="pos must be a position that was read, got 1"):
        some.top(0, 1, head=head)


def test_states_that_are_no_numbers_have_no_rank():
    model, tokens = model_of("gpt2"), tokens_of()
    with torch.no_grad():
        model.blocks[0].mlp.b_out[0] = torch.nan
    with pytest.warns(MisreadWarning, match="28 states are not finite and say nothing: their cells are NaN"):
        found = logit_lens(model, tokens, answer=3)
    assert not np.isnan(found.rank.values[:, 0]).any()
    for measured in (found.rank, found.probability, found.kl):
        assert np.isnan(measured.values[:, 1:]).all()


def test_memory_is_bounded_and_pieces_change_nothing(monkeypatch):
    model, tokens = model_of("llama", dtype=torch.float64), tokens_of("llama")
    whole = [logit_lens(model, tokens, site=site) for site in ("resid", "head")]
    monkeypatch.setattr(reading, "NUMBERS", 1)
    seen = []
    forward = model.unembed.forward
    monkeypatch.setattr(model.unembed, "forward", lambda x, run=None: seen.append(len(x)) or forward(x))
    for before, after in zip(whole, [logit_lens(model, tokens, site=site) for site in ("resid", "head")], strict=True):
        np.testing.assert_allclose(after.kl.values, before.kl.values, atol=1e-12)
        assert torch.equal(after.ids, before.ids)
    assert set(seen) == {1}


def test_half_precision_is_read_in_full():
    found = logit_lens(model_of("gpt2", dtype=torch.bfloat16), tokens_of())
    assert found.kl.values.dtype == np.float32 and found.kl.values[:, -1].max() == 0


def test_a_model_without_layers_has_the_final_state_alone():
    model = model_of(config_of(n_layers=0), dtype=torch.float64)
    found = logit_lens(model, tokens_of())
    assert found.layers == [0] and found.kl.values.max() == 0
    assert logit_lens(model, tokens_of(), site="attn_out").kl.shape == (2, 0, 7)


def test_texts_have_their_tokens_beside_them(toy):
    found = logit_lens(toy, "5 9 7 3 5 9", answer="7")
    assert found.kl.dims == ("prompt", "layer", "pos") and found.kl.unit == "nats"
    assert found.kl.dataset["token"].values.tolist() == found.tokens[0] == ["<bos>", "5", "9", "7", "3", "5", "9"]
    assert found.top(2, -1)[0][0] == "7" and found.rank.sel(prompt=0, layer=2, pos=6).item() == 0
    assert "what the end of the first of 1 prompts says" in repr(found) and "<table>" in found._repr_html_()
    heads = logit_lens(toy, ["5 9 7 3 5 9", "1 2"], site="head", answer="7")
    assert heads.kl.dims == ("prompt", "layer", "pos", "head") and heads.top(1, -1, head=0)[0][0] == "7"
    assert "\n  1.0  '7'" in repr(heads) and isinstance(heads.kl.mean("prompt"), Measurement)


def test_what_cannot_be_looked_at_is_refused(toy):
    model, tokens = model_of("gpt2"), tokens_of()
    with pytest.raises(UnknownNameError, match="site must be a known one, got 'heads'; nearest: head"):
        logit_lens(model, tokens, site="heads")
    with pytest.raises(ArgumentError, match="site='mlp_out' needs a model with MLPs"):
        logit_lens(model_of("attention only"), tokens, site="mlp_out")
    with pytest.raises(UnknownNameError, match="target must be prediction or next, got 'nxt'"):
        logit_lens(model, tokens, target="nxt")
    with pytest.raises(ArgumentError, match="answer and target='next' both say what is asked about"):
        logit_lens(model, tokens, target="next", answer=1)
    with pytest.raises(ArgumentError, match="k must be 1 or more, a whole number, got 0"):
        logit_lens(model, tokens, k=0)
    with pytest.raises(ArgumentError, match="answer must be one token, or one for each of 2 prompts, got 3"):
        logit_lens(model, tokens, answer=[1, 2, 3])
    with pytest.raises(ArgumentError, match=r"answer must be one token for each prompt, got \[2, 2\]"):
        logit_lens(model, tokens, answer=[[1, 2], [3, 4]])
    with pytest.raises(TokenError, match=r"ids of answers must lie in 0\.\.16, got \[17, 17\]"):
        logit_lens(model, tokens, answer=17)
    with pytest.raises(ArgumentError, match="prompts must be one or more, of one token or more"):
        logit_lens(model, torch.empty(0, 3, dtype=torch.long))
    with pytest.raises(ArgumentError, match=r"prompts must be token ids \[pos\] or \[prompt pos\], got \[1, 1, 1\]"):
        logit_lens(model, torch.zeros(1, 1, 1, dtype=torch.long))
    with pytest.warns(MisreadWarning, match="1 of 1 prompts lack BOS, id 0"):
        logit_lens(toy, [5, 6])
    found = logit_lens(model, tokens)
    with pytest.raises(ArgumentError, match=r"layer must lie in 0\.\.2, got 3"):
        found.top(3, 0)
    for pos in (7, -8):
        with pytest.raises(ArgumentError, match=rf"pos must lie in -7\.\.6, got {pos}"):
            found.top(0, pos)
    with pytest.raises(ArgumentError, match="positions must lie in every prompt, the shortest of 7 tokens, got 7"):
        logit_lens(model, tokens, positions=[7])
    with pytest.raises(ArgumentError, match="positions must be one or more whole numbers, in a list, got 3"):
        logit_lens(model, tokens, positions=3)
    with pytest.raises(ArgumentError, match="lens must translate states, such as a TunedLens, got 5"):
        logit_lens(model, tokens, lens=5)
    with pytest.raises(ArgumentError, match="head must be told for site 'head' alone, got head=1 for 'resid'"):
        found.top(0, 0, head=1)
