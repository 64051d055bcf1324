"""Against numbers of another implementation: agreement is seen, disagreement is told, foreign files are refused."""

import numpy as np
import pytest
import torch

from pellucid.base.errors import ArgumentError, CheckpointError
from pellucid.studies.reference import FILE, NAME, against_reference


@pytest.fixture
def reference(make_model, tmp_path):
    """q·k of a model, as a literal product of its weights gives it."""
    model = make_model(n_ctx=24)
    arrays = {}
    for i, ids in enumerate(([3, 1, 4, 1, 5], [9, 2, 6])):
        tokens = torch.tensor([ids])
        x = model.embed.W_E[tokens] + model.pos_embed.W_pos[: len(ids)]
        x = torch.nn.functional.layer_norm(x, x.shape[-1:], model.blocks[0].ln1.w, model.blocks[0].ln1.b)
        attn = model.blocks[0].attn
        q, k = (
            torch.einsum("bpm,hme->hpe", x, W) + b[:, None] for W, b in ((attn.W_Q, attn.b_Q), (attn.W_K, attn.b_K))
        )
        arrays |= {f"ex{i}_token_ids": np.array(ids), f"ex{i}_attn_qk": (q @ k.mT)[None].detach().numpy()}
    np.savez(tmp_path / FILE, **arrays)
    return model, tmp_path, arrays


def test_a_model_that_agrees_is_seen_to(reference):
    model, folder, _ = reference
    figure = against_reference(model, folder)[NAME]
    assert figure.value < 1e-4 and figure.unit == "logits"


def test_a_model_that_does_not_agree_is_told_by_how_much(reference):
    model, folder, arrays = reference
    arrays["ex1_attn_qk"][0, 2, 1, 1] += 0.25
    np.savez(folder / FILE, **arrays)
    assert against_reference(model, folder)[NAME].value == pytest.approx(0.25, abs=1e-4)


def test_the_real_reference_refuses_another_model(make_model, shared):
    with pytest.raises(ArgumentError, match="the reference's 12 heads"):
        against_reference(make_model(), shared / "data" / "gpt2-reference")


def test_a_folder_without_the_file_or_with_another_one_is_refused(make_model, tmp_path):
    with pytest.raises(CheckpointError, match=f"must hold {FILE}"):
        against_reference(make_model(), tmp_path)
    (tmp_path / FILE).write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match=f"must hold {FILE}"):
        against_reference(make_model(), tmp_path)
    np.savez(tmp_path / FILE, other=np.zeros(1))
    with pytest.raises(CheckpointError, match="one prompt or more, got none"):
        against_reference(make_model(), tmp_path)
