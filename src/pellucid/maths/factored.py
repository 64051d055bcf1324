"""A large matrix of low rank, held as the product of two thin ones and never formed unless asked for.

`W_OV = W_V W_O` is `[d_model d_model]` of rank d_head; between tokens it is `[d_vocab d_vocab]`. Products, norms,
singular values and eigenvalues follow from the factors. The words are those of TransformerLens.
"""

from functools import cached_property
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from pellucid.base.errors import ArgumentError


class FactoredMatrix:
    """`A B`, with any number of leading axes, which broadcast.

    Args:
        A: `[... ldim mdim]`.
        B: `[... mdim rdim]`.

    Raises:
        ArgumentError: The factors do not fit each other.

    Example:
        >>> M = FactoredMatrix(torch.ones(1000, 2), torch.ones(2, 1000))
        >>> M.shape, round(float(M.norm()))
        (torch.Size([1000, 1000]), 2000)
    """

    def __init__(self, A: Float[Tensor, "*l ldim mdim_a"], B: Float[Tensor, "*r mdim_b rdim"]) -> None:
        if A.ndim < 2 or B.ndim < 2 or A.shape[-1] != B.shape[-2]:
            raise ArgumentError(
                f"the last axis of A must be the second last of B, got A {list(A.shape)} and B {list(B.shape)}; "
                "transpose one of them"
            )
        leading = torch.broadcast_shapes(A.shape[:-2], B.shape[:-2])
        self.A = A.broadcast_to(leading + A.shape[-2:])
        self.B = B.broadcast_to(leading + B.shape[-2:])

    @property
    def ldim(self) -> int:
        """Rows of the product."""
        return self.A.shape[-2]

    @property
    def mdim(self) -> int:
        """The axis that the factors share: the largest rank that the product can have."""
        return self.A.shape[-1]

    @property
    def rdim(self) -> int:
        """Columns of the product."""
        return self.B.shape[-1]

    @property
    def shape(self) -> torch.Size:
        """Of the product."""
        return self.A.shape[:-1] + self.B.shape[-1:]

    @property
    def ndim(self) -> int:
        """Axes of the product."""
        return len(self.shape)

    @property
    def has_leading_dims(self) -> bool:
        """Whether this is a stack of matrices."""
        return self.ndim > 2

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """The factors (A, B)."""
        return self.A, self.B

    @property
    def AB(self) -> Float[Tensor, "*leading ldim rdim"]:
        """The product itself, which may be very large."""
        return self.A @ self.B

    @property
    def BA(self) -> Float[Tensor, "*leading mdim mdim"]:
        """The factors the other way round: it has the product's eigenvalues, but for zeros."""
        if self.ldim != self.rdim:
            raise ArgumentError(f"B A needs a square product, got {list(self.shape)}")
        return self.B @ self.A

    @property
    def T(self) -> "FactoredMatrix":
        """Transposed."""
        return FactoredMatrix(self.B.mT, self.A.mT)

    # Products

    def __matmul__(self, other: Any) -> Any:
        """A vector gives a vector; a matrix or another `FactoredMatrix` gives a `FactoredMatrix`."""
        if isinstance(other, FactoredMatrix):
            return (self @ other.A) @ other.B
        if not isinstance(other, Tensor):
            return NotImplemented
        _check_inner(self.rdim, other.shape[0 if other.ndim == 1 else -2], self.shape, other.shape)
        if other.ndim == 1:
            return (self.A @ (self.B @ other)[..., None])[..., 0]
        return FactoredMatrix(self.A, self.B @ other) if self.rdim > self.mdim else FactoredMatrix(self.AB, other)

    def __rmatmul__(self, other: Any) -> Any:
        """As `@`, from the left."""
        if not isinstance(other, Tensor):
            return NotImplemented
        _check_inner(other.shape[-1], self.ldim, other.shape, self.shape)
        if other.ndim == 1:
            return ((other @ self.A)[..., None, :] @ self.B)[..., 0, :]
        return FactoredMatrix(other @ self.A, self.B) if self.ldim > self.mdim else FactoredMatrix(other, self.AB)

    def __mul__(self, scalar: float | Tensor) -> "FactoredMatrix":
        """Times a number."""
        if isinstance(scalar, Tensor) and scalar.numel() != 1:
            raise ArgumentError(f"* takes a number, got a tensor {list(scalar.shape)}; @ is the matrix product")
        return FactoredMatrix(self.A * scalar, self.B)

    __rmul__ = __mul__

    # Parts

    def __getitem__(self, index: Any) -> "FactoredMatrix":
        """Part of the stack, and then of the rows and columns; a number keeps its row or column, as an axis of 1."""
        index = index if isinstance(index, tuple) else (index,)
        if Ellipsis in [i for i in index if not isinstance(i, Tensor)]:
            at = next(i for i, part in enumerate(index) if part is Ellipsis)
            used = sum(part is not None for part in index) - 1
            index = index[:at] + (slice(None),) * (self.ndim - used) + index[at + 1 :]
        n_leading = self.ndim - 2
        places = [i for i, part in enumerate(index) if part is not None]
        if len(places) > self.ndim:
            raise ArgumentError(
                f"an index must have at most {self.ndim} parts for {list(self.shape)}, got {len(places)}"
            )
        cut = places[n_leading] if len(places) > n_leading else len(index)
        leading, rest = index[:cut], [_as_slice(part) for part in index[cut:]]
        rows, columns = (rest + [slice(None)] * 2)[:2]
        return FactoredMatrix(self.A[(*leading, ..., rows, slice(None))], self.B[(*leading, ..., slice(None), columns)])

    def unsqueeze(self, k: int) -> "FactoredMatrix":
        """With an axis of size 1 more among the leading ones, before axis `k`."""
        return FactoredMatrix(self.A.unsqueeze(k), self.B.unsqueeze(k))

    def get_corner(self, k: int = 3) -> Float[Tensor, "*leading rows columns"]:
        """The first rows and columns of the product, to look at."""
        return self.A[..., :k, :] @ self.B[..., :, :k]

    # Spectrum

    @cached_property
    def _core(self) -> tuple[Tensor, Tensor, Tensor]:
        """Orthonormal bases of the factors' outer sides, and the small matrix between them."""
        left, left_rest = torch.linalg.qr(_precise(self.A))
        right, right_rest = torch.linalg.qr(_precise(self.B).mT)
        return left, left_rest @ right_rest.mT, right

    @cached_property
    def _svd(self) -> tuple[Tensor, Tensor, Tensor]:
        left, middle, right = self._core
        U, S, Vh = torch.linalg.svd(middle, full_matrices=False)
        return left @ U, S, right @ Vh.mT

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """(U, S, Vh) with `U diag(S) Vh.mT` the product: `[... ldim k]`, `[... k]`, `[... rdim k]`, k at most mdim.

        `Vh` has singular vectors as columns, as it has in TransformerLens.
        """
        return self._svd

    @property
    def U(self) -> Float[Tensor, "*leading ldim k"]:
        """Left singular vectors, as columns."""
        return self._svd[0]

    @property
    def S(self) -> Float[Tensor, "*leading k"]:
        """Singular values, largest first."""
        return self._svd[1]

    @property
    def Vh(self) -> Float[Tensor, "*leading rdim k"]:
        """Right singular vectors, as columns."""
        return self._svd[2]

    @property
    def eigenvalues(self) -> Complex[Tensor, "*leading mdim"]:
        """The product's eigenvalues, but for zeros."""
        return torch.linalg.eigvals(_precise(self.BA))

    def norm(self) -> Float[Tensor, "*leading"]:
        """The Frobenius norm."""
        return torch.linalg.matrix_norm(self._core[1])

    def make_even(self) -> "FactoredMatrix":
        """The same product with the singular values split evenly: `U √S` and `√S Vh.mT`."""
        root = self.S.sqrt()
        return FactoredMatrix(self.U * root[..., None, :], root[..., :, None] * self.Vh.mT)

    def collapse_l(self) -> Float[Tensor, "*leading k rdim"]:
        """The product without its orthogonal left side: `S Vh.mT`. Norms and inner products of columns stay."""
        return self.S[..., :, None] * self.Vh.mT

    def collapse_r(self) -> Float[Tensor, "*leading ldim k"]:
        """The product without its orthogonal right side: `U S`. Norms and inner products of rows stay."""
        return self.U * self.S[..., None, :]

    def __repr__(self) -> str:
        return (
            f"FactoredMatrix({' × '.join(map(str, self.shape))}, rank at most {min(self.ldim, self.mdim, self.rdim)})"
        )


def _precise(x: Tensor) -> Tensor:
    """Half precision has no QR, SVD or eigenvalues."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _as_slice(part: Any) -> Any:
    if isinstance(part, int):
        return slice(part, part + 1 or None)
    return part


def _check_inner(left: int, right: int, *shapes: torch.Size) -> None:
    if left != right:
        shown = " @ ".join(str(list(shape)) for shape in shapes)
        raise ArgumentError(f"inner axes of a product must be the same, got {shown}; transpose one of them")
