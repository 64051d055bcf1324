"""Numbers on numbers: statistics, factored matrices. Knows no model."""
