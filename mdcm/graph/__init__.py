"""Acyclic directed mixed graphs: by name, from text and files, as pictures."""

from mdcm.graph.admg import ADMG, read_graph

__all__ = ["ADMG", "read_graph"]
