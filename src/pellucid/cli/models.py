"""`pellucid models`: the models that have a name here."""

import typer

from pellucid.cli.options import AsJson, Debug, print_json
from pellucid.cli.tables import print_table


def models(as_json: AsJson = False, debug: Debug = False) -> None:
    """What can be loaded by name, and where it lies: bundled, in the hub's cache, or to be fetched from the hub.

    \b
    Example:
        pellucid models
    """  # noqa: D301  (typer leaves the lines after \b as they are)
    from pellucid.pretrained.names import available

    found = available()
    if as_json:
        rows = [
            {
                "name": m.name,
                "bundled": m.repository is None,
                "repository": m.repository,
                "here": m.here,
                "about": m.about,
            }
            for m in found
        ]
        print_json(rows)
        return
    places = {(True, True): "bundled", (False, True): "in the hub's cache", (False, False): "on the hub"}
    rows = [[m.name, places[m.repository is None, m.here], m.repository or m.about or ""] for m in found]
    print_table(["name", "where", "what it learned, or its name on the hub"], rows, right=False)
    typer.echo("\nOther names on the hub load too if the family is known, and so does a folder.")
