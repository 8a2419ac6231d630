"""A trained model: fitting, sampling, answering, saving and loading."""

from mdcm.model.fitting import fit
from mdcm.model.model import Model, load
from mdcm.sampling.answers import Answer

__all__ = ["Answer", "Model", "fit", "load"]
