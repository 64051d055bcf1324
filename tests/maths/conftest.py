"""Lets the tests of the numbers use few and skewed effects; that such use is warned of is tested in `test_level.py`."""

import warnings

import pytest

from pellucid.base.errors import MisreadWarning


@pytest.fixture(autouse=True)
def _numbers_apart_from_warnings(request: pytest.FixtureRequest) -> None:
    """In `test_statistics.py` alone, and for these two warnings alone; every other warning is an error there too."""
    if request.path.name == "test_statistics.py":
        for message in ("the bootstrap's interval is too narrow", "the effects of .* are so skewed"):
            warnings.filterwarnings("ignore", message, MisreadWarning)
