"""From activations to numbers about them; each analysis gives a Measurement."""
