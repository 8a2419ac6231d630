"""Plans: which mechanisms are trained together, in which order, and which distribution of the data each matches."""

from mdcm.planning.matching import check_datasets
from mdcm.planning.planner import plan
from mdcm.planning.records import DatasetSpec, Fit, HNode, Kind, Method, Objective, Plan, Pretrained

__all__ = ["DatasetSpec", "Fit", "HNode", "Kind", "Method", "Objective", "Plan", "Pretrained", "check_datasets", "plan"]
