"""The commands, thin: each calls what Python offers and prints it."""
