"""What is told of one prompt is what the model does."""

import pytest
import torch

from pellucid import HookedTransformer, patching
from pellucid.base.errors import TokenError
from pellucid.studies.explain import explain
from pellucid.tasks.pairs import Pairs
from tests.models import model_of

PROMPT, CORRUPTED = "5 9 7 3 5 9", "5 9 4 3 5 9"


@pytest.fixture(scope="module")
def model():
    return HookedTransformer.from_pretrained("toy-induction")


def test_numbers_are_those_of_the_run(model):
    found = explain(model, PROMPT, answer="7", wrong="4", corrupted=CORRUPTED)
    logits = model(PROMPT)[0, -1].detach()
    assert found.difference == pytest.approx(float(logits[7] - logits[4]), abs=1e-4) and found.can
    assert found.probability == pytest.approx(float(logits.softmax(0)[7]), abs=1e-5) and found.rank == 0
    data = found.components.dataset
    total = float(found.components.values.sum() + data["constant"].values.sum())
    assert total == pytest.approx(found.difference, abs=1e-3)
    pairs = Pairs.from_text(model.tokenizer, PROMPT, CORRUPTED, answer="7", wrong="4")
    effect = patching.sweep(model, pairs, site="z", over=("layer", "head")).effect()
    assert found.heads.values == pytest.approx(effect.values)
    _, cache = model.run_with_cache(PROMPT)
    for label, pattern in found.patterns.items():
        layer, head = map(int, label.split("."))
        torch.testing.assert_close(pattern, cache["pattern", layer][0, head])


def test_the_wrong_answer_is_the_models_own_where_none_is_told(model):
    found = explain(model, PROMPT, answer="8")
    assert found.chosen and found.wrong == "7" and not found.can and found.corrupted is None
    assert "It cannot" in found.page().html() and "Zeros are a crude question" in found.page().html()


def test_a_model_without_a_tokenizer_is_one_clear_error():
    with pytest.raises(TokenError, match="a prompt needs a tokenizer"):
        explain(model_of("gpt2"), "1 2", answer="3")
