"""How docstrings are read for the API pages: a section "Example:" is one of examples, whose doctests are code."""

import re
from typing import Any

from griffe import Extension


class ExampleSections(Extension):
    """Griffe knows the section by its plural alone."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        """Each docstring as it is found."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
