"""Experiments of the paper, each compared with a known truth; one file per experiment."""
