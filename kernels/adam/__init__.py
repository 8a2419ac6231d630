"""Adam on flat parameters of many modules: its definition, and its Triton form."""
