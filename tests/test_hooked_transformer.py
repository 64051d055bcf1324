"""Calling the model: what goes in, what comes out, loss, padding."""

import inspect
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid import HookedTransformer, KeyValueCache, Mean, Resample, get_act_name, get_device, to_numpy
from pellucid.base.errors import ArgumentError, TokenError
from pellucid.base.record import Record
from pellucid.text.policy import TextPolicy
from pellucid.text.tokenizer import Tokenizer
from pellucid.text.vocabulary import integer_vocabulary
from tests.models import CONFIGS, config_of, model_of, tokens_of, unchecked

TOKENS = tokens_of(batch=1)


@pytest.fixture
def model():
    return model_of("gpt2", tokenizer=integer_vocabulary(17))


def padded_by(pad_id):
    """The same vocabulary, padded with an id that is nothing else."""
    plain = integer_vocabulary(17)
    return Tokenizer(plain.inner, TextPolicy(bos_id=0, pad_id=pad_id, prepend_bos=True))


@pytest.mark.parametrize(
    "given",
    [
        TOKENS,
        TOKENS[0],
        TOKENS.int(),
        TOKENS.to(torch.int16)[0],
        TOKENS.numpy(),
        TOKENS.numpy()[0],
        TOKENS.numpy().astype(np.uint16),
        TOKENS.tolist(),
        TOKENS[0].tolist(),
        tuple(TOKENS[0].tolist()),
    ],
    ids=["[batch pos]", "[pos]", "int32", "int16", "numpy", "numpy [pos]", "numpy uint16", "lists", "list", "tuple"],
)
def test_token_ids_come_in_any_form(model, given):
    logits, loss = model(given, return_type="both")
    assert torch.equal(logits, model(TOKENS))
    assert torch.equal(loss, model(TOKENS, return_type="loss"))
    assert torch.equal(model.run(given).logits, logits)
    assert model.run_with_cache(given)[1]["resid_pre", 0].shape == (1, 7, 10)


def test_text_comes_in_as_a_string_or_several(model):
    assert torch.equal(model("3 5 12"), model(torch.tensor([[0, 3, 5, 12]])))
    assert torch.equal(model("3 5 12", prepend_bos=False), model(torch.tensor([[3, 5, 12]])))
    assert torch.equal(model(["3 5", "4 6"]), model(torch.tensor([[0, 3, 5], [0, 4, 6]])))
    assert torch.equal(model(("3 5",)), model("3 5"))


@pytest.mark.parametrize(
    "given, error, said",
    [
        ([], ArgumentError, "a prompt must have at least one token, got none"),
        ([1.5, 2.0], ArgumentError, "tokens must be ids, which are whole numbers, got torch.float64"),
        (torch.zeros(1, 1, 1, dtype=torch.long), ArgumentError, r"got torch.int64 \[1, 1, 1\]"),
        ("", None, None),
        ("3 99", TokenError, "99"),
        ([[1, 2], [3]], ArgumentError, "tokens must be ids, in rows of one length"),
    ],
)
def test_what_is_no_prompt_is_refused(model, given, error, said):
    with unchecked():
        if error is None:
            assert model(given).shape == (1, 1, 17)
            return
        with pytest.raises(error, match=said):
            model(given)


def test_a_text_without_any_token_is_refused_where_nothing_stands_before_it(model):
    with pytest.raises(
        TokenError, match="must have at least one token, '' has none; give some text, or prepend_bos=True"
    ):
        model("", prepend_bos=False)


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_comes_out_is_logits_or_loss_or_both_or_nothing(kind):
    model, tokens = model_of(kind), tokens_of(kind)
    logits = model(tokens)
    assert logits.shape == (2, 7, 17)
    loss = model(tokens, return_type="loss")
    assert loss.shape == ()
    both = model(tokens, return_type="both")
    assert isinstance(both, tuple)
    assert torch.equal(both[0], logits) and torch.equal(both[1], loss)
    assert model(tokens, return_type=None) is None
    assert model(tokens, "loss").shape == ()
    assert model(tokens, "both", True)[1].shape == (2, 6)


def test_loss_is_the_mean_negative_log_probability_of_each_next_token(model):
    tokens = tokens_of()
    logits = model(tokens).detach()
    expected = [
        [-math.log(F.softmax(logits[row, p].double(), -1)[tokens[row, p + 1]]) for p in range(6)] for row in range(2)
    ]
    each = model(tokens, return_type="loss", loss_per_token=True).detach()
    torch.testing.assert_close(each, torch.tensor(expected), rtol=0, atol=1e-5)
    assert float(model(tokens, return_type="loss").detach()) == pytest.approx(np.mean(expected), abs=1e-5)
    torch.testing.assert_close(model.loss_fn(logits, tokens, per_token=True), each)
    torch.testing.assert_close(model.loss_fn(logits, tokens), each.mean())


def test_loss_is_taken_in_float32_or_wider():
    for dtype, wide in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        assert model_of("gpt2", dtype=dtype)(TOKENS, return_type="loss").dtype == wide


def test_a_loss_from_a_residual_stream_needs_the_tokens(model):
    stream = model(TOKENS, stop_at_layer=1)
    with pytest.raises(ArgumentError, match="a loss needs token ids, got a residual stream alone; pass tokens="):
        model(stream, return_type="loss", start_at_layer=1)
    found = model(stream, return_type="loss", start_at_layer=1, tokens=TOKENS)
    assert torch.equal(found, model(TOKENS, return_type="loss"))


def test_a_run_that_stops_early_gives_the_stream_whatever_was_asked_for(model):
    for return_type in ("logits", "loss", "both", None):
        assert model(TOKENS, return_type=return_type, stop_at_layer=1).shape == (1, 7, 10)


TEXTS = ["3 5 12", "4", "1 2 3 4 5 6"]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("pad_id", [0, 16])
def test_a_padded_row_of_text_has_the_logits_of_the_row_alone(kind, side, pad_id):
    model = model_of(kind, dtype=torch.float64, tokenizer=padded_by(pad_id))
    found = model(TEXTS, padding_side=side)
    for row, text in enumerate(TEXTS):
        alone = model(text)[0]
        part = found[row, -len(alone) :] if side == "left" else found[row, : len(alone)]
        torch.testing.assert_close(part, alone)


@pytest.mark.parametrize("side", ["left", "right"])
def test_loss_with_padding_is_that_of_the_rows_alone(model, side):
    model.double()
    each = model(TEXTS, return_type="loss", loss_per_token=True, padding_side=side)
    alone = [model(text, return_type="loss", loss_per_token=True)[0] for text in TEXTS]
    for row, losses in enumerate(alone):
        part = each[row, -len(losses) :] if side == "left" else each[row, : len(losses)]
        torch.testing.assert_close(part, losses)
        rest = each[row, : -len(losses)] if side == "left" else each[row, len(losses) :]
        assert rest.eq(0).all()
    torch.testing.assert_close(model(TEXTS, return_type="loss", padding_side=side), torch.cat(alone).mean())


@settings(max_examples=20)
@given(st.sampled_from(sorted(CONFIGS)), st.integers(0, 5), st.integers(0, 5))
def test_ids_padded_on_either_side_with_a_mask_have_the_logits_of_the_row_alone(kind, left, right):
    model, tokens = model_of(kind, dtype=torch.float64), tokens_of(kind, pos=11)
    mask = torch.ones_like(tokens)
    mask[0, :left] = 0
    mask[0, 11 - right :] = 0
    found, alone = model(tokens, attention_mask=mask), tokens[:1, left : 11 - right]
    torch.testing.assert_close(found[0, left : 11 - right], model(alone)[0])
    torch.testing.assert_close(found[1], model(tokens[1:])[0])
    loss = model(tokens, attention_mask=mask.bool(), return_type="loss", loss_per_token=True)
    torch.testing.assert_close(
        loss[0, left : left + alone.shape[1] - 1], model(alone, return_type="loss", loss_per_token=True)[0]
    )


@pytest.mark.parametrize("pad_id", [0, 16])
def test_ids_padded_on_the_left_are_known_where_the_tokenizer_pads_there(pad_id):
    model = model_of("gpt2", dtype=torch.float64, tokenizer=padded_by(pad_id))
    ids = model.to_tokens(TEXTS, padding_side="left")
    expected = model(TEXTS, padding_side="left")
    assert not torch.allclose(model(ids), expected)
    torch.testing.assert_close(model(ids, padding_side="left"), expected)
    model.tokenizer.padding_side = "left"
    torch.testing.assert_close(model(ids), expected)
    torch.testing.assert_close(model.run_with_cache(ids)[0], expected)
    torch.testing.assert_close(model(ids, return_type="loss"), model(TEXTS, return_type="loss"))


def test_a_mask_that_is_given_for_text_counts(model):
    mask = torch.tensor([[1, 1, 0, 1]])
    expected = model(torch.tensor([[0, 3, 5, 12]]), attention_mask=mask)
    assert torch.equal(model("3 5 12", attention_mask=mask), expected)
    assert not torch.allclose(model("3 5 12"), expected)


def test_a_mask_of_ones_changes_nothing(model):
    assert torch.equal(model(TOKENS, attention_mask=torch.ones_like(TOKENS)), model(TOKENS))


def test_hooks_and_a_past_work_with_text(model):
    seen = []
    model.run_with_hooks("3 5", fwd_hooks=[("hook_embed", lambda x, hook: seen.append(x.shape))])
    assert seen == [(1, 3, 10)]
    past = KeyValueCache.init_cache(model.cfg)
    model("3 5", past_kv_cache=past)
    found = model("12 4", prepend_bos=False, past_kv_cache=past)
    torch.testing.assert_close(found, model("3 5 12 4")[:, 3:], rtol=0, atol=1e-5)


def test_means_over_texts_of_different_length_leave_padding_out(model):
    model.double()
    streams = torch.cat([model.run_with_cache(text)[1]["z", 0][0] for text in TEXTS])
    (edit,) = Mean("z", layer=0, over=TEXTS).resolve(model).values()
    torch.testing.assert_close(edit.apply(torch.zeros(1, 1, 4, 6).double())[0, 0], streams.mean(0))
    with pytest.raises(ArgumentError, match="Resample draws from must be of one length, got padded ones; group them"):
        model.run("3", edits=[Resample("z", source=TEXTS)])
    with pytest.raises(ArgumentError, match="Mean of 'pattern' needs prompts of one length, got padded ones"):
        model.run("3", edits=[Mean("pattern", over=TEXTS, per_position=True)])


def test_the_model_says_where_it_came_from():
    model = HookedTransformer(config_of(), seed=5, record=Record(model="mine", seed=5), device="cpu")
    assert model.record.model == model.cfg.model_name == "mine"
    assert model.cfg.seed == 5


def test_a_fresh_model_is_put_on_the_best_device_unless_told():
    assert HookedTransformer(config_of()).device == get_device()
    assert HookedTransformer(config_of(), move_to_device=False).device.type == "cpu"
    assert HookedTransformer(config_of(), device="cpu", move_to_device=True).cfg.device.type == "cpu"


def test_a_model_may_be_made_without_memory():
    with torch.device("meta"):
        model = HookedTransformer(config_of())
    assert model.W_E.is_meta and model.cfg.device.type == "meta"
    assert model.cfg.d_vocab == 17


def test_what_everybody_uses_stands_at_the_top():
    assert get_act_name("v", 0) == "blocks.0.attn.hook_v"
    assert to_numpy(torch.ones(2, requires_grad=True)).tolist() == [1, 1]
    assert to_numpy([torch.ones(2), torch.zeros(2)]).tolist() == [[1, 1], [0, 0]]
    assert to_numpy([1, 2]).tolist() == [1, 2]
    assert to_numpy(1.5).tolist() == 1.5
    assert to_numpy(torch.ones(1, dtype=torch.bfloat16)).dtype == np.float32


def test_gradients_reach_every_parameter_in_training():
    model, tokens = model_of("llama"), tokens_of("llama")
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for _ in range(20):
        loss = model(tokens, return_type="loss")
        optimiser.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_an_input_that_cannot_be_is_refused_by_one_clear_error():
    model = model_of("gpt2", tokenizer=integer_vocabulary(17))
    with unchecked():
        with pytest.raises(ArgumentError, match=r"with start_at_layer the input must be a residual stream .*got '1 2'"):
            model("1 2", start_at_layer=1)
        with pytest.raises(ArgumentError, match=r"attention mask must be a tensor \[batch pos\], got \[\[1, 1\]\]"):
            model(torch.tensor([[1, 2]]), attention_mask=[[1, 1]])


@pytest.mark.parametrize(
    "make", [HookedTransformer.from_pretrained, lambda name, **more: HookedTransformer(config_of(), **more)]
)
def test_a_device_that_is_not_here_is_refused(make):
    with pytest.raises(ArgumentError, match="device must be one that torch has here, such as 'cpu' .* got 'gpu'"):
        make("toy-induction", device="gpu")


@pytest.mark.parametrize("name", ["", 3, None])
def test_a_name_that_is_none_is_refused(name):
    with unchecked(), pytest.raises(ArgumentError, match=f"model_name must be a name or a folder, got {name!r}"):
        HookedTransformer.from_pretrained(name)


def test_the_order_of_arguments_is_that_of_2_18():
    names = list(inspect.signature(HookedTransformer.forward).parameters)[1:11]
    assert names == [
        *("input", "return_type", "loss_per_token", "prepend_bos", "padding_side", "start_at_layer", "tokens"),
        *("shortformer_pos_embed", "attention_mask", "stop_at_layer"),
    ]
    with pytest.raises(ArgumentError, match="shortformer_pos_embed must be None"):
        model_of("gpt2")(tokens_of(), shortformer_pos_embed=1)
