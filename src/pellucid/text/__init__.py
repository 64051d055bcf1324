"""Text to token ids and back; knows no model."""
