"""Trained models: found by name, read into place, processed, saved and compared with their reference."""
