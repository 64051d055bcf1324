"""How large a cache will be is known before it is made."""

import pytest
import torch
from hypothesis import given, settings

from pellucid import AttentionConfig, HookedTransformer, KeyValueCache
from pellucid.base.errors import TooLargeError
from pellucid.model import size
from pellucid.model.size import cached_bytes, check_fits, holder
from tests.models import CONFIGS, config_of, configs, model_of, tokens_of

CPU = torch.device("cpu")


def told(config, names, x):
    """What would be refused where this much is free, found by trying: the bytes that are reckoned with."""
    return sum(cached_bytes(config, name, x, n_others=0) for name in {holder(name) for name in names})


@settings(max_examples=20)
@given(configs().filter(lambda config: config.n_layers > 0))
def test_the_bytes_that_a_cache_will_have_are_told_beforehand(config):
    model, tokens = model_of(config), tokens_of(config)
    _, cache = model.run_with_cache(tokens)
    stream = torch.empty(2, 7, 10)
    shared = 1 if config.residual else 1 + 2 * config.n_layers  # what else may lie in one memory, and is not known to
    assert 0 <= told(config, list(cache), stream) - cache.nbytes <= shared * stream.nbytes


@pytest.mark.parametrize("kind", CONFIGS)
def test_so_they_are_for_each_activation_alone(kind):
    model, tokens = model_of(kind, dtype=torch.float64), tokens_of(kind)
    x = torch.empty(2, 7, 10, dtype=torch.float64)
    for name in model.hook_names:
        _, cache = model.run_with_cache(tokens, names_filter=name)
        assert told(model.config, [name], x) == cache.nbytes, name


@pytest.fixture
def little(monkeypatch):
    """A machine with this many bytes free."""

    def set_free(free):
        monkeypatch.setattr(size, "free_memory", lambda device: free)

    return set_free


def test_a_cache_that_cannot_fit_is_refused_before_it_is_made(little):
    config = config_of(n_ctx=4000, attention=AttentionConfig(n_heads=64, d_head=1))
    model = HookedTransformer(config, seed=0, device="cpu")
    tokens = tokens_of(config, batch=1, pos=4000)
    ran = []
    model.add_hook("blocks.0.hook_resid_pre", lambda x, hook: ran.append(1))
    little(int(16e9))
    with pytest.raises(TooLargeError) as caught:
        model.run_with_cache(tokens)
    said = str(caught.value)
    assert "the cache must fit in the 16.0 GB free on cpu, it needs 16.4 GB, 8.2 GB of it for attn_scores" in said
    assert "names_filter=lambda name: not name.endswith('hook_attn_scores'), or pos_slice" in said
    assert ran == []
    assert isinstance(caught.value, MemoryError)


@pytest.mark.parametrize(
    "fewer",
    [
        {"names_filter": "resid_post"},
        {"pos_slice": -1},
        {"pos_slice": slice(0, 1)},
        {"pos_slice": [0]},
        {"device": "meta"},
    ],
)
def test_what_keeps_less_fits(little, monkeypatch, fewer):
    model, tokens = model_of("gpt2"), tokens_of(batch=8, pos=16)
    monkeypatch.setattr(size, "free_memory", lambda device: 30_000 if device.type == "cpu" else None)
    with pytest.raises(TooLargeError):
        model.run_with_cache(tokens)
    model.run_with_cache(tokens, **fewer)


def test_where_the_system_does_not_tell_nothing_is_refused(little):
    little(None)
    _, cache = model_of("gpt2").run_with_cache(tokens_of())
    assert "hook_embed" in cache


def test_keys_of_the_past_count(little):
    model, tokens = model_of("gpt2"), tokens_of(pos=15)
    past = KeyValueCache.init_cache(model.cfg)
    model(tokens[:, :14], past_kv_cache=past)
    alone = told(model.config, ["blocks.0.attn.hook_pattern"], torch.empty(2, 1, 10))
    little(alone)
    model.run_with_cache(tokens[:, 14:], names_filter=("pattern", 0))
    with pytest.raises(TooLargeError):
        model.run_with_cache(tokens[:, 14:], names_filter=("pattern", 0), past_kv_cache=past)


def test_a_residual_stream_that_is_given_counts_too(little):
    model = model_of("gpt2")
    little(100)
    with pytest.raises(TooLargeError):
        model.run_with_cache(torch.zeros(2, 7, 10), start_at_layer=1)


def test_what_blocks_read_is_counted_once():
    x = torch.empty(2, 7, 10)
    config = config_of()
    names = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_pre", "blocks.1.hook_q_input"]
    assert told(config, names, x) == told(config, names[:1], x) == told(config, names[2:], x) == 4 * x.numel()
    check_fits(config, names, x, n_others=0, device=CPU)


def test_a_real_machine_tells_how_much_is_free():
    from pellucid.base.memory import free_memory

    free = free_memory(CPU)
    assert free is None or free > 0
