"""Values of critics and gradients of their loss: their parameters, their definition, and their Triton form."""
