"""Files: paths that lead nowhere else, run directories and checkpoints that are whole at every moment."""
