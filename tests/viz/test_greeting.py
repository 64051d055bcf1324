"""The greeting."""

from pellucid import viz


def test_it_greets_whatever_the_name():
    assert repr(viz.hello("Ada")) == "<Hello, Ada; .save('page.html') writes a page>"
    assert viz.hello("Ada\x00 L").data() == {"name": "Ada␀ L"}
