"""Fitted models that several tests look at, and a mechanism as a user writes one."""

import numpy as np
import pandas as pd
import torch
from torch import nn

import mdcm
from mdcm import (
    ADMG,
    TrainConfig,
)
from mdcm.mechanisms import Mechanism
from mdcm.scm import random_discrete

FRONT_DOOR = ADMG.from_string("X -> Z -> Y; X <-> Y")
QUICK = TrainConfig(max_steps=60)
BRIEF = TrainConfig(max_steps=2, checks=1)


def front_door_table():
    data = random_discrete(FRONT_DOOR, levels={"X": 2, "Z": 2, "Y": 3}, seed=3).sample(1000, seed=0)
    return data.assign(Z=data["Z"].map({0: "low", 1: "high"}))


def front_door(table):
    return mdcm.fit(FRONT_DOOR, table, config=QUICK, seed=1)


def tangled():
    """Seven variables with levels of several types, a confounder of three, and no particular distribution."""
    graph = ADMG.from_string("L [latent]; A -> B -> C -> D; A -> E; F -> C; L -> B; L -> D; L -> F; E <-> D; G")
    drawn = random_discrete(graph, levels=2, seed=5).sample(300, seed=0)
    drawn = drawn.assign(A=drawn["A"] == 1, B=drawn["B"].map({0: "b0", 1: "b1"}), C=drawn["C"] * 2.0)
    drawn["D"] = pd.Categorical.from_codes(drawn["D"], ["no", "yes"], ordered=True)
    return mdcm.fit(graph, drawn, config=BRIEF)


class GaussianLine(Mechanism):
    """A mechanism as a user writes one: a number that depends linearly on its parents."""

    noise_size = 1

    def __init__(self, variable, parents, latents=()):
        super().__init__(variable, parents, latents)
        self.line = nn.Linear(max(len(self.parents), 1), 1)
        self.spread = nn.Parameter(torch.zeros(()))

    def _mean(self, parents, rows):
        inputs = [parents[parent.name].float() for parent in self.parents]
        return self.line(torch.stack(inputs, 1) if inputs else torch.zeros(rows, 1)).squeeze(1)

    def forward(self, parents, latents, noise):
        return self._mean(parents, len(noise)) + self.spread.exp() * noise.squeeze(1)

    def conditional_loss(self, parents, value, generator):
        return ((value - self._mean(parents, len(value))) / self.spread.exp()).square() / 2 + self.spread

    def config(self):
        return {"type": "tests.GaussianLine"}


def same(one, other):
    """Two Samples are equal bit for bit."""
    pd.testing.assert_frame_equal(one.table, other.table, check_exact=True)
    assert one.images.keys() == other.images.keys()
    for name in one.images:
        np.testing.assert_array_equal(one.images[name], other.images[name])
