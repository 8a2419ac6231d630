"""Gumbel races with straight-through gradients: their definition, and their Triton form."""
