"""The model against a transformer written out in plain torch: the same values, the same gradients."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models import assert_agree, configs, model_of, tokens_of
from tests.reference.literal import literal

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


@settings(max_examples=60)
@given(configs(), st.sampled_from(list(TOLERANCE)), st.integers(0, 3))
def test_every_hook_point_shows_what_a_literal_transformer_computes(config, dtype, seed):
    model, tokens = model_of(config, dtype=dtype, seed=seed), tokens_of(config, seed=seed)
    logits, values = literal(model, tokens)
    found, cache = model.run_with_cache(tokens, names_filter=model.hook_names)
    assert list(cache) == list(values)
    assert set(cache) == set(model.hook_names)
    assert_agree({"logits": found, **cache}, {"logits": logits, **values}, within=TOLERANCE[dtype])
