"""Norms: the fused and the explicit form agree, in every precision."""

import pytest
import torch
import torch.nn.functional as F

from pellucid import LayerNorm, RMSNorm
from pellucid.base.errors import ConfigError
from pellucid.hooks.run import LiveRun
from pellucid.model.norms import LayerNormPart, NoNorm, RMSNormPart, make_norm, widened
from tests.models import unchecked

KINDS = [LayerNorm(), LayerNorm(eps=0.1, affine=False), RMSNorm(eps=1e-6), RMSNorm(eps=0.1, affine=False)]


def norm_of(config, dtype=torch.float32):
    torch.manual_seed(0)
    norm = make_norm(6, config)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    return norm.to(dtype)


@pytest.mark.parametrize("config", KINDS)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_both_forms_agree(config, scale):
    norm, x = norm_of(config, torch.float64), scale * torch.randn(2, 3, 6, dtype=torch.float64)
    torch.testing.assert_close(norm(x, run=LiveRun()), norm(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("config", KINDS)
def test_they_are_what_torch_has(config):
    norm, x = norm_of(config), torch.randn(2, 3, 6)
    if isinstance(config, LayerNorm):
        expected = F.layer_norm(x, (6,), norm.w, norm.b, config.eps)
    else:
        expected = F.rms_norm(x, (6,), norm.w, config.eps)
    assert torch.equal(norm(x), expected)


@pytest.mark.parametrize("config", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_are_taken_in_float32_by_both_forms(config, dtype):
    norm, x = norm_of(config, dtype), (1e4 + 50 * torch.randn(2, 3, 6)).to(dtype)
    wide = norm_of(config, dtype).to(torch.float32)(x.float())
    for out in (norm(x), norm(x, run=LiveRun())):
        assert out.dtype == dtype
        torch.testing.assert_close(out.float(), wide, rtol=0.02, atol=0.02)


def test_the_scale_is_a_root_mean_square():
    x = torch.tensor([[[3.0, 4.0, 0.0, 0.0, 0.0, 5.0]]])
    seen = {}
    for config, expected in ((RMSNorm(eps=0.0), x), (LayerNorm(eps=0.0), x - x.mean())):
        live, norm = LiveRun(), norm_of(config)
        norm.hook_scale.name = "scale"
        live.add_reader("scale", lambda x, point: seen.__setitem__("scale", x))
        norm(x, run=live)
        torch.testing.assert_close(seen["scale"], expected.square().mean(-1, keepdim=True).sqrt())
        assert seen["scale"].shape == (1, 1, 1)


def test_normalized_lies_after_the_weights_in_layer_norm_and_before_them_in_rms_norm():
    x = torch.randn(1, 2, 6)
    for config in (LayerNorm(), RMSNorm()):
        live, norm, seen = LiveRun(), norm_of(config), {}
        norm.hook_normalized.name = "normalized"
        live.add_reader("normalized", lambda x, point, seen=seen: seen.update(x=x))
        out = norm(x, run=live)
        torch.testing.assert_close(out, seen["x"] if isinstance(config, LayerNorm) else seen["x"] * norm.w)


def test_a_norm_switches_to_its_explicit_form_only_where_somebody_listens():
    norm, x = norm_of(LayerNorm()), torch.randn(2, 3, 6)
    norm.hook_scale.name = "here"
    auto, elsewhere = LiveRun(explicit=False), LiveRun(explicit=False)
    elsewhere.add_reader("other", lambda x, point: None)
    auto.add_reader("here", lambda x, point: None)
    assert torch.equal(norm(x, run=elsewhere), norm(x))
    assert torch.equal(norm(x, run=auto), norm(x, run=LiveRun()))


def test_no_norm_is_nothing_at_all():
    x = torch.randn(2, 3, 6)
    assert make_norm(6, None)(x) is x
    assert isinstance(make_norm(6, None), NoNorm)


def test_norms_have_weights_only_if_they_are_affine():
    assert [name for name, _ in make_norm(6, LayerNorm()).named_parameters()] == ["w", "b"]
    assert [name for name, _ in make_norm(6, RMSNorm()).named_parameters()] == ["w"]
    assert isinstance(make_norm(6, LayerNorm()), LayerNormPart)
    assert isinstance(make_norm(6, RMSNorm()), RMSNormPart)
    for config in (LayerNorm(affine=False), RMSNorm(affine=False)):
        assert not list(make_norm(6, config).parameters())


def test_another_kind_of_norm_is_refused():
    with unchecked(), pytest.raises(ConfigError, match="norm must be LayerNorm.*, RMSNorm.* or None, got 'LN'"):
        make_norm(6, "LN")


def test_widening_never_narrows():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert widened(torch.ones(1, dtype=dtype)).dtype == torch.float32
    assert widened(torch.ones(1, dtype=torch.float64)).dtype == torch.float64
