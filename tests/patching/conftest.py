from collections.abc import Iterator

import pytest

from tests.models import unchecked


@pytest.fixture(scope="module")
def without_shape_checks() -> Iterator[None]:
    """For modules of many sweeps, which would take five times as long; `test_shapes.py` runs every kind with them."""
    with unchecked():
        yield
