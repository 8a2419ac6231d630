"""Mechanisms that exist already: any function from parents and noise to a value, taken as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdcm import kernels
from mdcm.data import Variable
from mdcm.errors import MdcmError, PlanError
from mdcm.mechanisms.base import Mechanism, NoiseKind, check_finite
from mdcm.mechanisms.categorical import winning_noise
from mdcm.storage.disk import as_path

__all__ = ["Frozen", "Pretrained"]

Adapter = Callable[[dict[str, Tensor], Tensor], Any]


class Pretrained:
    """Constructor of a mechanism around a callable that was trained elsewhere, for ``mechanisms={name: ...}``.

    The callable sees the parents as people do: a categorical parent as one-hot floats ``[n, levels]``, numbers in
    their own units ``[n]`` or ``[n, size]``, images as floats ``[n, c, h, w]`` in [-1, 1]. It returns the variable in
    the same units, ``n`` rows (codes ``[n]`` of a categorical one). Categorical parents are one-hot in sampling and in
    training, so that one adapter serves both: ``parents["D"] @ embedding`` lets a gradient through to the parent,
    ``parents["D"].argmax(1)`` does not.

    A module is put into evaluation mode and its parameters are frozen, in place. They are no part of the model: they
    are not trained, not saved, and the module is passed again when a model is loaded.

    Args:
        module: ``module(parents)``, or ``module(parents, noise)`` where it takes noise.
        adapter: Makes the module's arguments: ``adapter(parents, noise)`` returns one argument, a tuple of them, or a
            dict of them by name.
        noise_size: Numbers of normal noise per row, ``[n, noise_size]``.
        logits: Whether the module returns logits ``[n, levels]`` of a categorical variable, of which a Gumbel race
            draws one level.
        log_prob: ``log_prob(parents, value)``, the log density ``[n]`` of values in their own units; by default the
            method of that name that the module may have, if there is no adapter.
        invert: ``invert(parents, value, fresh)``, noise ``[n, noise_size]`` that leads to the value; ``fresh`` is prior
            noise for what the value does not determine. By default as ``log_prob``.

    Raises:
        TypeError: If ``module`` cannot be called.
        ValueError: If ``noise_size`` is negative, or given with ``logits``, which have noise of their own.

    References:
        Rahman & Kocaoglu (2024), sections 5.3 and F.3 (a pretrained generator of X-rays).

    Example:
        >>> tall = Pretrained(lambda parents, noise: 170 + 10 * parents["sex"][:, 1] + 7 * noise[:, 0], noise_size=1)
        >>> mechanism = tall(Variable("height", "continuous"), [Variable("sex", "categorical", levels=("f", "m"))])
        >>> mechanism({"sex": torch.tensor([0, 1])}, (), torch.zeros(2, 1)).tolist()
        [170.0, 180.0]
    """

    def __init__(
        self,
        module: Callable[..., Any],
        adapter: Adapter | None = None,
        noise_size: int = 0,
        *,
        logits: bool = False,
        log_prob: Callable[..., Any] | None = None,
        invert: Callable[..., Any] | None = None,
    ) -> None:
        if not callable(module):
            raise TypeError(f"a pretrained mechanism must be callable, and {type(module).__name__} is not")
        if noise_size < 0 or (logits and noise_size):
            what = "logits have noise of their own" if logits else "it must be at least 0"
            raise ValueError(f"noise_size is {noise_size}: {what}")
        self.module, self.adapter, self.noise_size, self.logits = module, adapter, noise_size, logits
        own = None if adapter is not None else module
        self.log_prob = log_prob or _method(own, "log_prob")
        self.invert = invert or _method(own, "invert")

    def __call__(self, variable: Variable, parents: Sequence[Variable], latents: Sequence[int] = ()) -> Frozen:
        """The mechanism of one variable.

        Raises:
            PlanError: If the variable has a hidden confounder, which the callable knows nothing of, or if logits are
                said to come for a variable that is not categorical.
        """
        if self.logits:
            return _FrozenLogits(self, variable, parents, latents)
        return (Frozen if self.log_prob is None else _FrozenDensity)(self, variable, parents, latents)

    @classmethod
    def from_diffusers(cls, path: str | Path, *, label: str | None = None, steps: int = 50) -> Pretrained:
        """Image mechanism from a pipeline that diffusers saved in a folder; nothing is fetched, no code is run.

        The pipeline consists of a ``UNet2DModel`` and a scheduler, and is sampled deterministically (DDIM), so that it
        can be inverted. Weights are read from safetensors files only.

        Args:
            path: Folder with ``model_index.json``.
            label: Name of the categorical parent whose codes are the classes of a class-conditional network; other
                parents have no effect.
            steps: Steps of the sampler.

        Raises:
            MdcmError: If diffusers is not installed, if the folder holds anything else than such a pipeline, or if its
                weights do not fit its description.
        """
        from mdcm.mechanisms.pipeline import read_pipeline

        pipeline = read_pipeline(as_path(path, MdcmError), label, steps)
        return cls(pipeline, noise_size=pipeline.noise_size)


def _method(module: Any, name: str) -> Callable[..., Any] | None:
    found = getattr(module, name, None)
    return found if callable(found) else None


class Frozen(Mechanism):
    """Mechanism around a callable that is taken as it is; made by :class:`Pretrained`.

    Args:
        source: The callable and how to call it.
        variable: The variable that it generates.
        parents: Its parents.
        latents: Must be empty.

    Raises:
        PlanError: If the variable has a confounder.
    """

    def __init__(
        self, source: Pretrained, variable: Variable, parents: Sequence[Variable], latents: Sequence[int] = ()
    ) -> None:
        super().__init__(variable, parents, latents)
        if self.latents:
            raise PlanError(
                f"{variable.name!r} has a hidden confounder, and its pretrained mechanism does not take one as input"
            )
        # no submodule: its weights belong to the user, and neither training nor loading may write to them
        self._source = (source,)
        for module in self._modules_of_user():
            module.requires_grad_(False).eval()

    @property
    def source(self) -> Pretrained:
        """The callable and how to call it."""
        return self._source[0]

    @property
    def noise_size(self) -> int:
        """Number of normal numbers per row that the callable takes."""
        return self.source.noise_size

    def _modules_of_user(self) -> list[nn.Module]:
        return [one for one in (self.source.module, self.source.adapter) if isinstance(one, nn.Module)]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Frozen:
        # to another device, with the model
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for module in self._modules_of_user():
            module._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _shown(self, parents: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parents as people see them."""
        shown = {}
        for parent in self.parents:
            value = parents[parent.name]
            if parent.levels is None:
                shown[parent.name] = _restored(parent, value)
            else:
                one_hot = value.is_floating_point()
                shown[parent.name] = value if one_hot else F.one_hot(value, len(parent.levels)).float()
        return shown

    def _called(self, parents: Mapping[str, Tensor], noise: Tensor) -> Tensor:
        for module in self._modules_of_user():
            # somebody may have switched it back
            module.eval()
        shown, source = self._shown(parents), self.source
        if source.adapter is not None:
            arguments = source.adapter(shown, noise)
            if isinstance(arguments, Mapping):
                found = source.module(**arguments)
            else:
                found = source.module(*arguments) if isinstance(arguments, tuple) else source.module(arguments)
        else:
            found = source.module(shown, noise) if source.noise_size else source.module(shown)
        value = torch.as_tensor(found, device=noise.device)
        expected = (len(noise), *self._row_shape())
        if value.shape == (*expected, 1):
            value = value.squeeze(-1)
        if value.shape != expected:
            raise MdcmError(
                f"the pretrained mechanism of {self.variable.name!r} gave a tensor {list(value.shape)}; "
                f"{list(expected)} is needed"
            )
        return value

    def _row_shape(self) -> tuple[int, ...]:
        return self.variable.shape or (() if self.variable.size is None else (self.variable.size,))

    def forward(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor) -> Tensor:
        """What the callable gives, as mechanisms see it; see the base class.

        Raises:
            MdcmError: If it gives a tensor of another shape, or what are no codes of a categorical variable.
        """
        value = self._called(parents, noise)
        levels = self.variable.levels
        if levels is None:
            return _standardised(self.variable, value)
        if value.is_floating_point() or (len(value) and not 0 <= int(value.min()) <= int(value.max()) < len(levels)):
            raise MdcmError(
                f"the pretrained mechanism of {self.variable.name!r} must give whole numbers from 0 to "
                f"{len(levels) - 1}; one that gives logits says so: Pretrained(..., logits=True)"
            )
        return value.long()

    def relaxed(
        self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor, temperature: float
    ) -> Tensor:
        """As :meth:`forward`, with codes one-hot; a gradient reaches the parents where the callable lets it through."""
        value = self.forward(parents, latents, noise)
        return value if self.variable.levels is None else F.one_hot(value, len(self.variable.levels)).float()

    def conditional_loss(self, parents: Mapping[str, Tensor], value: Tensor, generator: torch.Generator) -> Tensor:
        """Negative log density where there is one; nothing is learned from it.

        Raises:
            TypeError: If the callable has no density.
        """
        return -self.log_prob(parents, (), value)

    @property
    def can_abduct(self) -> bool:
        """Whether the callable offers ``invert``, or takes no noise that would have to be found."""
        return self.source.invert is not None or not self.noise_size

    def abduct(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor, fresh: Tensor) -> Tensor:
        """Noise that the callable's ``invert`` finds, ``[n, noise_size]``; see the base class."""
        if not self.noise_size:
            return fresh
        if self.source.invert is None:
            return super().abduct(parents, latents, value, fresh)
        shown = _restored(self.variable, value) if self.variable.levels is None else value
        return torch.as_tensor(self.source.invert(self._shown(parents), shown, fresh)).view_as(fresh)

    def config(self) -> dict[str, Any]:
        """Only its type: the callable is passed again when a model is loaded."""
        return {"type": "pretrained"}


class _FrozenDensity(Frozen):
    """One whose callable offers a density."""

    has_density: ClassVar[bool] = True

    def log_prob(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor) -> Tensor:
        """Log density of the standardised value in nats, ``[n]``."""
        assert self.source.log_prob is not None
        if self.variable.levels is not None:
            return torch.as_tensor(self.source.log_prob(self._shown(parents), value))
        found = torch.as_tensor(self.source.log_prob(self._shown(parents), _restored(self.variable, value)))
        # a density per unit of what mechanisms see
        scale = self.variable.scale
        entries = (scale,) * (self.variable.size or 1) if isinstance(scale, float) else scale or ()
        return found + sum(math.log(entry) for entry in entries)


class _FrozenLogits(Frozen):
    """One whose callable gives logits, of which a Gumbel race draws one."""

    noise_kind: ClassVar[NoiseKind] = "gumbel"
    has_density: ClassVar[bool] = True

    def __init__(
        self, source: Pretrained, variable: Variable, parents: Sequence[Variable], latents: Sequence[int] = ()
    ) -> None:
        if variable.levels is None:
            raise PlanError(f"{variable.name!r} is {variable.kind}, and logits are for a categorical variable")
        super().__init__(source, variable, parents, latents)

    @property
    def noise_size(self) -> int:
        """One Gumbel number per level."""
        return self.variable.num_levels

    def _row_shape(self) -> tuple[int, ...]:
        return (self.variable.num_levels,)

    def _logits(self, parents: Mapping[str, Tensor], noise: Tensor) -> Tensor:
        # a level may be impossible, as long as not all are
        logits = check_finite(self.variable, self._called(parents, noise), "logits", impossible=True)
        if bool((logits == -math.inf).all(-1).any()):
            raise MdcmError(f"the pretrained mechanism of {self.variable.name!r} makes every level impossible in a row")
        return logits

    def forward(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor) -> Tensor:
        """Codes of the winning levels, int64 ``[n]``; see the base class."""
        return (self._logits(parents, noise) + noise).argmax(-1)

    def relaxed(
        self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor, temperature: float
    ) -> Tensor:
        """One-hot rows of the winning levels with the gradient of the softmax; see the base class."""
        logits = self._logits(parents, noise)
        packing = kernels.Packing([self.noise_size], device=logits.device)
        return kernels.gumbel_softmax(logits, packing, temperature, noise)

    def log_prob(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor) -> Tensor:
        """Log probability of the observed codes in nats, ``[n]``."""
        table = self._logits(parents, value.new_zeros(len(value), self.noise_size, dtype=torch.float32))
        return table.log_softmax(-1).gather(-1, value[:, None]).squeeze(-1)

    @property
    def can_abduct(self) -> bool:
        """Always: the noise is that of the race."""
        return True

    def abduct(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor, fresh: Tensor) -> Tensor:
        """Gumbel noise given the level that won, drawn exactly; see :meth:`Categorical.abduct`."""
        return winning_noise(self._logits(parents, fresh), value, fresh)


def _restored(variable: Variable, value: Tensor) -> Tensor:
    """Numbers in their own units from what mechanisms see; images are the same in both."""
    if variable.mean is None and variable.scale is None:
        return value
    mean, scale = (value.new_tensor(default if one is None else one) for one, default in _units(variable))
    return value * scale + mean


def _standardised(variable: Variable, value: Tensor) -> Tensor:
    value = value.float()
    if variable.mean is None and variable.scale is None:
        return value
    mean, scale = (value.new_tensor(default if one is None else one) for one, default in _units(variable))
    return (value - mean) / scale


def _units(variable: Variable) -> tuple[tuple[Any, float], tuple[Any, float]]:
    return (variable.mean, 0.0), (variable.scale, 1.0)
