"""Models whose mechanisms are the tables of a known SCM, so that sampling is tested apart from training."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from mdcm import TrainConfig, plan
from mdcm.data import Schema, Variable
from mdcm.dcm import DCM
from mdcm.mechanisms import Mechanism
from mdcm.model import Model
from mdcm.scm import DiscreteSCM

__all__ = ["TableMechanism", "model_of", "random_model", "scm_of"]


class TableMechanism(Mechanism):
    """``v = F^-1(e | parents, u)`` with the rows of a table, the noise e a normal number made uniform.

    The noise is that of mdcm.scm, so that answers of the third layer must agree as well.
    """

    noise_kind = "normal"
    has_density = True
    noise_size = 1

    def __init__(self, variable, parents, latents, table):
        super().__init__(variable, parents, latents)
        self.register_buffer("table", torch.as_tensor(table, dtype=torch.float64))
        upper = self.table.cumsum(-1)
        upper[..., -1] = 1.0
        self.register_buffer("upper", upper)

    def _rows(self, parents, latents) -> tuple[Tensor, ...]:
        return (*(parents[parent.name] for parent in self.parents), *latents)

    def forward(self, parents, latents, noise):
        uniform = torch.special.ndtr(noise.double())
        upper = self.upper[self._rows(parents, latents)].expand(len(noise), -1)
        return (uniform >= upper[:, :-1]).sum(-1)

    def log_prob(self, parents, latents, value):
        return self.table[self._rows(parents, latents)].expand(len(value), -1).gather(-1, value[:, None])[:, 0].log()

    def abduct(self, parents, latents, value, fresh):
        upper = self.upper[self._rows(parents, latents)].expand(len(value), -1)
        high = upper.gather(-1, value[:, None])
        low = torch.where(value[:, None] > 0, upper.gather(-1, (value[:, None] - 1).clamp_min(0)), torch.zeros(()))
        # away from the bounds, where rounding would give the next level
        uniform = torch.special.ndtr(fresh.double()).clamp(1e-9, 1 - 1e-9)
        return torch.special.ndtri(low + (high - low) * uniform)

    def conditional_loss(self, parents, value, generator):
        return -self.log_prob(parents, (), value)

    def config(self):
        return {"type": "tests.TableMechanism"}


def model_of(scm: DiscreteSCM, factories=None, variables=None) -> Model:
    """The SCM as a trained model; ``factories`` and ``variables`` take the place of some of it."""
    graph = scm.graph
    schema = Schema(
        (variables or {}).get(node) or Variable(node, "categorical", tuple(scm.levels[node])) for node in graph.nodes
    )
    made = {
        node: lambda variable, parents, latents, node=node: TableMechanism(variable, parents, latents, scm.tables[node])
        for node in graph.nodes
    }
    states = {name: len(scm.priors[name]) for name, _ in graph.confounders}
    dcm = DCM(graph, schema, states, {**made, **(factories or {})})
    for prior, (name, _) in zip(dcm.priors, graph.confounders, strict=True):
        prior.data = torch.from_numpy(np.log(scm.priors[name]))
    return Model(graph, schema, plan(graph, kinds=schema.kinds), dcm.eval(), TrainConfig(), seed=0, datasets=[])


def random_model(graph, levels=3, states=3, seed=0, spread=2.0) -> Model:
    """A model as it is trained, of random weights; levels and states by name, or the same for all."""
    sizes = {node: levels if isinstance(levels, int) else levels[node] for node in graph.nodes}
    schema = Schema(Variable(node, "categorical", tuple(range(sizes[node]))) for node in graph.nodes)
    dcm = DCM(graph, schema, {name: states for name, _ in graph.confounders}, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for prior in dcm.priors:
            prior.copy_(torch.randn(prior.shape, generator=generator))
        for mechanism in dcm.mechanisms.values():
            mechanism.out.weight.mul_(spread * 2)
            mechanism.out.bias.add_(torch.randn(mechanism.out.bias.shape, generator=generator) * spread / 2)
    # so that tables are the same to the last digits whatever computes them
    dcm = dcm.double().eval()
    return Model(graph, schema, plan(graph, kinds=schema.kinds), dcm, TrainConfig(), seed=0, datasets=[])


@torch.no_grad()
def scm_of(model: Model) -> DiscreteSCM:
    """The tables of a discrete model, cell by cell."""
    tables, priors = {}, {}
    for name, prior in zip(model.dcm.confounders, model.dcm.priors, strict=True):
        priors[name] = prior.double().softmax(0).numpy()
    for node in model.graph.nodes:
        mechanism, parents = model.dcm.mechanism(node), model.dcm.parents(node)
        sizes = [*(model.schema[parent].num_levels for parent in parents), *mechanism.latents]
        table = np.empty([*sizes, model.schema[node].num_levels])
        for place in itertools.product(*map(range, sizes)):
            codes = [torch.tensor([code]) for code in place]
            values = dict(zip(parents, codes, strict=False))
            logits = mechanism.logits(values, codes[len(parents) :], 1)
            table[place] = logits[0].double().softmax(0).numpy()
        tables[node] = table
    return DiscreteSCM(model.graph, tables, priors)
