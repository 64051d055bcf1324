import sys

import pytest
import torch

from pellucid.base.errors import MissingExtraError
from pellucid.pretrained.load import Options
from pellucid.pretrained.processing import Processing
from pellucid.pretrained.verify import Verified, verify
from tests.parity.reference import reference, saved


def test_a_model_agrees_with_its_reference(tmp_path):
    saved(reference("llama", "grouped queries"), tmp_path)
    plain = verify(tmp_path)
    assert plain.agrees(1e-5) and plain.logits < 1e-5 and plain.n_tokens == 2 * 16
    processed = verify(tmp_path, processing=Processing(), shape=(1, 8))
    assert processed.agrees(1e-4) and processed.logits > 1e-3 and processed.processing
    exact = verify(tmp_path, options=Options(dtype=torch.float64))
    assert exact.log_probs < 1e-5


def test_a_difference_is_noticed(tmp_path, monkeypatch):
    saved(reference("gpt2"), tmp_path)
    import pellucid.pretrained.verify as module

    def wrong(*arguments, **options):
        loaded = load(*arguments, **options)
        with torch.no_grad():
            loaded.model.blocks[1].attn.b_O[0] += 0.1
        return loaded

    load = module.load
    monkeypatch.setattr(module, "load", wrong)
    assert not verify(tmp_path).agrees()


def test_logits_count_only_where_nothing_was_processed():
    shifted = {"logits": 1.0, "log_probs": 1e-6, "n_tokens": 1}
    assert Verified(**shifted, processing=("center_unembed",)).agrees()
    assert not Verified(**shifted, processing=()).agrees()
    assert not Verified(logits=0.0, log_probs=1e-3, n_tokens=1, processing=("fold_ln",)).agrees()


def test_transformers_is_asked_for_by_its_install_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pellucid\[hf\]'"):
        verify(tmp_path)
