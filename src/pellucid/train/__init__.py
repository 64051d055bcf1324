"""Training small models."""
