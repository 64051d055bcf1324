"""What a behaviour is measured on: pairs of prompts, and the number that says how much of it is there."""
