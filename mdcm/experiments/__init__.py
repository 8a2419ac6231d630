"""The experiments, each with a truth to compare with: one file per experiment."""
