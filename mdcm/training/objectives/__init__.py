"""Training objectives: what a mechanism or a group of them is fitted to."""
