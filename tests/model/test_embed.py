"""Embedding and unembedding, one matrix or two."""

import copy
import pickle

import pytest
import torch
from torch import nn

from pellucid.base.errors import MisreadWarning
from pellucid.model.embed import Embed, TiedUnembed, Unembed
from tests.models import config_of, model_of, tokens_of


def test_a_tied_W_U_is_W_E_transposed_one_parameter_saved_once():
    model = model_of("gpt2")
    assert model.W_U.data_ptr() == model.W_E.data_ptr()
    assert torch.equal(model.unembed.W_U, model.embed.W_E.T)
    assert [name for name, _ in model.named_parameters() if "embed" in name] == ["embed.W_E", "pos_embed.W_pos"]
    with torch.no_grad():
        model.embed.W_E[3] = 7.0
    assert model.W_U[:, 3].eq(7).all()


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: model.double(),
        lambda model: model.to("cpu", torch.float64),
    ],
)
def test_tied_stays_tied(copied):
    other = copied(model_of("gpt2"))
    assert other.W_U.data_ptr() == other.W_E.data_ptr()
    assert isinstance(other.unembed, TiedUnembed)
    assert other.W_U.dtype == other.W_E.dtype
    assert other.cfg.tie_word_embeddings


def test_a_copy_is_tied_to_its_own_embedding():
    model = model_of("gpt2")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.embed.W_E.zero_()
    assert model.W_U.abs().sum() > 0
    assert other.W_U.eq(0).all()


def test_the_gradient_of_a_tied_matrix_comes_from_both_its_uses():
    model, tokens = model_of("gpt2", dtype=torch.float64), tokens_of()
    untied = model_of("gpt2", dtype=torch.float64)
    with pytest.warns(MisreadWarning):
        untied.unembed.W_U = untied.W_E.detach().T.clone()
    model(tokens, return_type="loss").backward()
    untied(tokens, return_type="loss").backward()
    torch.testing.assert_close(model.embed.W_E.grad, untied.embed.W_E.grad + untied.unembed.W_U.grad.T)


@pytest.mark.parametrize("given", [torch.ones(10, 17), nn.Parameter(torch.ones(10, 17))])
def test_assigning_W_U_unties_it_and_says_so(given):
    model = model_of("gpt2")
    W_E = model.W_E.detach().clone()
    with pytest.warns(MisreadWarning, match="W_U was W_E transposed; it is now a matrix of its own"):
        model.unembed.W_U = given
    assert type(model.unembed) is Unembed
    assert isinstance(model.unembed.W_U, nn.Parameter)
    assert model.W_U.eq(1).all()
    assert torch.equal(model.W_E, W_E)
    assert "unembed.W_U" in dict(model.named_parameters())
    assert not model.cfg.tie_word_embeddings
    assert model(tokens_of()).std(-1).max() < 1e-5
    model.unembed.W_U = nn.Parameter(torch.zeros(10, 17))
    assert model(tokens_of()).eq(0).all()


def test_an_untied_model_survives_copies_and_setup():
    model = model_of("gpt2")
    with pytest.warns(MisreadWarning):
        model.unembed.W_U = torch.ones(10, 17)
    model.setup()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.W_U.eq(1).all()
        assert other.W_U.data_ptr() != other.W_E.data_ptr()


def test_setup_ties_to_an_embedding_that_was_put_in():
    model = model_of("gpt2")
    model.embed = Embed(17, 10)
    nn.init.constant_(model.embed.W_E, 2.0)
    model.setup()
    assert model.W_U.eq(2).all()


def test_the_unembedding_has_its_own_size_and_bias():
    model = model_of(config_of(d_vocab_out=5, unembed_bias=True))
    assert model.W_U.shape == (10, 5)
    assert model.b_U.shape == (5,)
    logits = model(tokens_of())
    assert logits.shape == (2, 7, 5)
    with torch.no_grad():
        model.unembed.b_U += 1
    torch.testing.assert_close(model(tokens_of()), logits + 1)
