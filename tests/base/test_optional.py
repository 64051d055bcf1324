"""A library that is not installed is named with the line that installs it."""

import json

import pytest

from pellucid.base.errors import MissingExtraError
from pellucid.base.optional import optional


def test_a_module_that_is_installed_is_given():
    assert optional("json", extra="web") is json
    assert optional("os.path", extra="web").join("a", "b") == "a/b"


def test_a_module_that_is_not_installed_is_an_error_with_the_line_that_installs_it():
    with pytest.raises(
        MissingExtraError, match=r"no_such_thing must be .*; run: pip install 'pellucid\[web\]'"
    ) as caught:
        optional("no_such_thing", extra="web")
    assert isinstance(caught.value.__cause__, ImportError)
