"""Report of a trained model: an HTML page with fits, training, answers and samples."""

from mdcm.report.model_report import Comparison, compare, write_report

__all__ = ["Comparison", "compare", "write_report"]
