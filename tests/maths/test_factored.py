"""`FactoredMatrix` against the dense product, in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.base.errors import ArgumentError
from pellucid.maths.factored import FactoredMatrix

sizes = st.integers(1, 6)


@st.composite
def factored(draw, square: bool = False) -> FactoredMatrix:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    ldim, mdim, rdim = draw(sizes), draw(sizes), draw(sizes)
    leading = draw(st.sampled_from([(), (2,), (3, 2)]))
    left = draw(st.sampled_from([leading, leading[1:], ()]))
    A = torch.randn(*left, ldim, mdim, generator=generator, dtype=torch.float64)
    B = torch.randn(*leading, mdim, ldim if square else rdim, generator=generator, dtype=torch.float64)
    return FactoredMatrix(A, B)


@given(factored())
def test_the_spectrum_is_that_of_the_dense_product(M):
    U, S, Vh = M.svd()
    torch.testing.assert_close(U * S[..., None, :] @ Vh.mT, M.AB)
    dense = torch.linalg.svdvals(M.AB)
    k = min(dense.shape[-1], S.shape[-1])
    torch.testing.assert_close(S[..., :k], dense[..., :k])
    torch.testing.assert_close(U.mT @ U, torch.eye(U.shape[-1], dtype=U.dtype).expand(*S.shape, -1))
    torch.testing.assert_close(M.norm(), torch.linalg.matrix_norm(M.AB))
    torch.testing.assert_close(M.make_even().AB, M.AB)
    torch.testing.assert_close(M.collapse_l().mT @ M.collapse_l(), M.AB.mT @ M.AB)
    torch.testing.assert_close(M.collapse_r() @ M.collapse_r().mT, M.AB @ M.AB.mT)


@given(factored(square=True))
def test_eigenvalues_have_the_power_sums_of_the_dense_product(M):
    for power in (1, 2, 3):
        trace = torch.linalg.matrix_power(M.AB, power).diagonal(dim1=-2, dim2=-1).sum(-1)
        torch.testing.assert_close((M.eigenvalues**power).sum(-1).real, trace)


@given(factored(), sizes, st.integers(0, 99))
def test_products_on_either_side_are_those_of_the_dense_product(M, n, seed):
    generator = torch.Generator().manual_seed(seed)
    right = torch.randn(M.rdim, n, generator=generator, dtype=torch.float64)
    left = torch.randn(n, M.ldim, generator=generator, dtype=torch.float64)
    torch.testing.assert_close((M @ right).AB, M.AB @ right)
    torch.testing.assert_close((left @ M).AB, left @ M.AB)
    torch.testing.assert_close(M @ right[:, 0], M.AB @ right[:, 0])
    torch.testing.assert_close(left[0] @ M, left[0] @ M.AB)
    torch.testing.assert_close((M @ FactoredMatrix(right, left)).AB, M.AB @ right @ left)
    torch.testing.assert_close((2 * M * torch.tensor(0.5)).AB, M.AB)
    torch.testing.assert_close(M.T.AB, M.AB.mT)


@given(factored(), st.data())
def test_indexing_is_that_of_the_dense_product_but_keeps_rows_and_columns(M, data):
    rows = data.draw(st.one_of(st.integers(-M.ldim, M.ldim - 1), st.just(slice(None))))
    columns = data.draw(st.one_of(st.integers(-M.rdim, M.rdim - 1), st.just(slice(None))))
    as_slices = [slice(i, i + 1 or None) if isinstance(i, int) else i for i in (rows, columns)]
    torch.testing.assert_close(M[..., rows, columns].AB, M.AB[(..., *as_slices)])
    if M.has_leading_dims:
        torch.testing.assert_close(M[0].AB, M.AB[0])
        torch.testing.assert_close(M[None, 0].AB, M.AB[None, 0])
        torch.testing.assert_close(M.unsqueeze(0).AB, M.AB[None])
    torch.testing.assert_close(M.get_corner(2), M.AB[..., :2, :2])


def test_the_product_is_never_formed_for_a_large_vocabulary():
    A, B = torch.randn(50257, 8), torch.randn(8, 50257)
    M = FactoredMatrix(A, B)  # the product would be ten gigabytes
    assert M.shape == (50257, 50257)
    torch.testing.assert_close(M.norm(), ((A.T @ A) * (B @ B.T)).sum().sqrt(), rtol=1e-4, atol=0)
    assert (B @ M @ A).AB.shape == (8, 8)
    assert M.eigenvalues.shape == (8,) and M.T.S.shape == (8,)


def test_half_precision_has_a_spectrum():
    M = FactoredMatrix(torch.randn(5, 3).bfloat16(), torch.randn(3, 5).bfloat16())
    torch.testing.assert_close(M.norm(), torch.linalg.matrix_norm(M.A.float() @ M.B.float()))
    assert M.eigenvalues.shape == (3,)


def test_factors_and_operands_that_do_not_fit_are_refused():
    M = FactoredMatrix(torch.ones(4, 2), torch.ones(2, 3))
    assert repr(M) == "FactoredMatrix(4 × 3, rank at most 2)" and M.pair == (M.A, M.B)
    with pytest.raises(
        ArgumentError, match=r"last axis of A must be the second last of B, got A \[4, 2\] and B \[3, 2\]"
    ):
        FactoredMatrix(torch.ones(4, 2), torch.ones(3, 2))
    with pytest.raises(ArgumentError, match=r"inner axes .* got \[4, 3\] @ \[4, 3\]"):
        M @ torch.ones(4, 3)
    with pytest.raises(ArgumentError, match=r"inner axes"):
        torch.ones(3) @ M
    with pytest.raises(ArgumentError, match="square"):
        _ = M.BA
    with pytest.raises(ArgumentError, match="@ is the matrix product"):
        M * torch.ones(3)
    with pytest.raises(ArgumentError, match="at most 2 parts"):
        M[0, 0, 0]
    with pytest.raises(TypeError):
        M @ "x"
