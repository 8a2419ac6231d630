"""Random numbers by address: their definition, and the Triton form of those of a training step."""
