"""Hook points cost nothing until they are used: an unhooked pass does what a plain fused model does."""

import pytest
import torch
from hypothesis import given, settings
from torch.utils._python_dispatch import TorchDispatchMode

from pellucid.model.decoder import Decoder
from tests.models import CONFIGS, configs, model_of, tokens_of
from tests.reference.plain import plain_forward


class Operations(TorchDispatchMode):
    """Records every operation that does something: views, which only look at memory otherwise, are left out."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        (returned,) = function._schema.returns[:1] or (None,)
        is_view = returned is not None and returned.alias_info is not None and not returned.alias_info.is_write
        if not is_view and function is not torch.ops.aten._unsafe_view.default:
            self.names.append(str(function))
        return out


def operations(function, *args):
    function(*args)  # tables of angles are made once
    with Operations() as seen, torch.no_grad():
        function(*args)
    return seen.names


def test_views_are_told_from_what_does_something():
    x = torch.ones(2, 3)
    assert operations(lambda: x.T.flatten(0, 1)[None].unsqueeze(1).expand(2, 1, 6)) == ["aten.clone.default"]
    assert operations(lambda: x.view(6)[:2].add_(1)) == ["aten.add_.Tensor"]


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_unhooked_pass_does_what_a_plain_model_does_in_the_same_order(kind, dtype):
    model, tokens = model_of(kind, dtype=dtype), tokens_of(kind)
    plain = operations(plain_forward, model, tokens)
    assert operations(model, tokens) == plain
    assert sum("scaled_dot_product" in name for name in plain) == 2
    assert torch.equal(model(tokens), plain_forward(model, tokens))


@settings(max_examples=30)
@given(configs().filter(lambda config: config.mlp is None or config.mlp.act != "quick_gelu"))
def test_whatever_the_configuration_it_costs_nothing(config):
    decoder, tokens = Decoder(config, seed=0), tokens_of(config)
    assert operations(decoder, tokens) == operations(plain_forward, decoder, tokens)


def test_neither_does_a_model_after_its_hooks_are_reset():
    model, tokens = model_of("llama"), tokens_of("llama")
    plain = operations(model, tokens)
    model.add_hook("z", lambda x, hook: None)
    hooked = operations(model, tokens)
    model.reset_hooks()
    assert len(hooked) > len(plain)
    assert operations(model, tokens) == plain


def test_a_pass_without_logits_leaves_the_unembedding_out():
    model, tokens = model_of("gpt2"), tokens_of()
    plain = operations(model, tokens)
    assert operations(lambda: model(tokens, return_type=None)) == plain[:-1]


def test_the_weights_lie_so_that_no_product_copies_them():
    for kind in CONFIGS:
        seen = operations(model_of(kind), tokens_of(kind))
        assert not [name for name in seen if "clone" in name or "copy" in name], kind
