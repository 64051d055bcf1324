"""The ES modules that draw, as text. Nothing is built: the files in ``static`` are valid modules as they lie.

A view's module may import from ``static/shared``; for a notebook or a page, which take one module and have no files
beside it, what the imported file holds is put in place of the line that imports it.
"""

import re
from functools import cache
from pathlib import Path

STATIC = Path(__file__).parent / "static"

IMPORT = re.compile(r'^import \{(?P<names>[^}]*)\} from "\./(?P<file>shared/\w+\.js)";$', re.MULTILINE)
EXPORT = re.compile(r"^export (?=function|const|class)", re.MULTILINE)


@cache
def source(file: str) -> str:
    """One ES module, with all that it needs, whose default export is ``{ render({ model, el }) }``."""
    return IMPORT.sub(_in_place, text(file))


def text(file: str) -> str:
    """A file of ``static`` as it lies."""
    return (STATIC / file).read_text(encoding="utf-8")


def _in_place(line: re.Match[str]) -> str:
    """A shared file, closed up so that its names meet none of the view's."""
    names = line["names"]
    return f"const {{{names}}} = (() => {{\n{EXPORT.sub('', text(line['file']))}\nreturn {{{names}}};\n}})();"
