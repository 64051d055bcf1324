"""Names, points, sites, edits and runs: how an activation is read and changed. Knows no particular model."""
