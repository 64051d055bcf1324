"""What is found by name is there."""

import pytest

from pellucid.base.registry import PLACES, by_name


@pytest.mark.parametrize("name", PLACES)
def test_every_name_leads_somewhere(name):
    assert callable(by_name(name))
