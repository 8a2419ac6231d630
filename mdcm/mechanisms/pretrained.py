"""Mechanisms around existing functions from parents and noise to a value, which are not trained."""

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

    The callable receives the parents in the units of the data: a categorical parent as one-hot floats ``[n, levels]``,
    numbers ``[n]`` or ``[n, size]``, images as floats ``[n, c, h, w]`` in [-1, 1]. It returns the variable in the same
    units, ``n`` rows (codes ``[n]`` of a categorical variable). Categorical parents are one-hot in sampling and in
    training, so that the same adapter serves both: ``parents["D"] @ embedding`` propagates a gradient to the parent,
    ``parents["D"].argmax(1)`` does not.

    A module is put into evaluation mode and its parameters are frozen, in place. They do not belong to the model: they
    are not trained and not saved, and the module must be passed again when a model is loaded.

    Args:
        module: ``module(parents)``, or ``module(parents, noise)`` if ``noise_size`` is positive.
        adapter: ``adapter(parents, noise)`` returns the module's arguments: a single value, a tuple, or a dict of
            keyword arguments.
        noise_size: Number of normal noise values per row, ``[n, noise_size]``.
        logits: Whether the module returns logits ``[n, levels]`` of a categorical variable, from which a level is
            drawn by the Gumbel-max trick.
        log_prob: ``log_prob(parents, value)``, the log density ``[n]`` of values in the units of the data; by default
            the module's method of that name, if any, unless there is an adapter.
        invert: ``invert(parents, value, fresh)``, noise ``[n, noise_size]`` for which the module returns the value;
            ``fresh`` is prior noise for what the value does not determine. Default as for ``log_prob``.

    Raises:
        TypeError: If ``module`` is not callable.
        ValueError: If ``noise_size`` is negative, or positive with ``logits``, which need Gumbel noise instead.

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
        methods = module if adapter is None else None
        self.log_prob = log_prob or _method(methods, "log_prob")
        self.invert = invert or _method(methods, "invert")

    def __call__(self, variable: Variable, parents: Sequence[Variable], latents: Sequence[int] = ()) -> Frozen:
        """Return the mechanism of a variable.

        Raises:
            PlanError: If the variable has a hidden confounder, which the callable does not take as input, or if
                ``logits`` is set for a variable that is not categorical.
        """
        if self.logits:
            return _FrozenLogits(self, variable, parents, latents)
        return (Frozen if self.log_prob is None else _FrozenDensity)(self, variable, parents, latents)

    @classmethod
    def from_diffusers(cls, path: str | Path, *, label: str | None = None, steps: int = 50) -> Pretrained:
        """Image mechanism from a pipeline that diffusers saved in a folder; nothing is downloaded, no code is run.

        The pipeline must consist of a ``UNet2DModel`` and a scheduler. It is sampled deterministically (DDIM), so that
        it can be inverted. Weights are read from safetensors files only.

        Args:
            path: Folder with ``model_index.json``.
            label: Name of the categorical parent whose codes are the classes of a class-conditional network; other
                parents have no effect.
            steps: Steps of the sampler.

        Raises:
            MdcmError: If diffusers is not installed, if the folder does not hold such a pipeline, or if the weights do
                not match the configuration.
            ValueError: If ``steps`` is out of range.
        """
        from mdcm.mechanisms.pipeline import read_pipeline

        pipeline = read_pipeline(as_path(path, MdcmError), label, steps)
        return cls(pipeline, noise_size=pipeline.noise_size)


def _method(module: Any, name: str) -> Callable[..., Any] | None:
    method = getattr(module, name, None)
    return method if callable(method) else None


class Frozen(Mechanism):
    """Mechanism around a callable that is not trained; made by :class:`Pretrained`.

    Args:
        source: The callable and its options.
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
        # in a tuple, so that it is not a submodule: neither training nor loading may write to the user's weights
        self._source = (source,)
        for module in self._user_modules():
            module.requires_grad_(False).eval()

    @property
    def source(self) -> Pretrained:
        """The callable and its options."""
        return self._source[0]

    @property
    def noise_size(self) -> int:
        """Number of noise values per row that the callable takes."""
        return self.source.noise_size

    def _user_modules(self) -> list[nn.Module]:
        return [module for module in (self.source.module, self.source.adapter) if isinstance(module, nn.Module)]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Frozen:
        # move the user's modules with the model
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for module in self._user_modules():
            module._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _decoded_parents(self, parents: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parents in the units of the data, categorical parents one-hot."""
        decoded = {}
        for parent in self.parents:
            value = parents[parent.name]
            if parent.levels is None:
                decoded[parent.name] = _unstandardised(parent, value)
            else:
                one_hot = value.is_floating_point()
                decoded[parent.name] = value if one_hot else F.one_hot(value, len(parent.levels)).float()
        return decoded

    def _call_module(self, parents: Mapping[str, Tensor], noise: Tensor) -> Tensor:
        for module in self._user_modules():
            # the user may have changed the mode since
            module.eval()
        decoded, source = self._decoded_parents(parents), self.source
        if source.adapter is not None:
            arguments = source.adapter(decoded, noise)
            if isinstance(arguments, Mapping):
                result = source.module(**arguments)
            else:
                result = source.module(*arguments) if isinstance(arguments, tuple) else source.module(arguments)
        else:
            result = source.module(decoded, noise) if source.noise_size else source.module(decoded)
        value = torch.as_tensor(result, device=noise.device)
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
        """Result of the callable, encoded for mechanisms; see the base class.

        Raises:
            MdcmError: If it has the wrong shape, or is not codes of a categorical variable.
        """
        value = self._call_module(parents, noise)
        levels = self.variable.levels
        if levels is None:
            return _standardised(self.variable, value)
        if value.is_floating_point() or (len(value) and not 0 <= int(value.min()) <= int(value.max()) < len(levels)):
            raise MdcmError(
                f"the pretrained mechanism of {self.variable.name!r} must give whole numbers from 0 to "
                f"{len(levels) - 1}; if it gives logits, use Pretrained(..., logits=True)"
            )
        return value.long()

    def relaxed(
        self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor, temperature: float
    ) -> Tensor:
        """As :meth:`forward`, with one-hot codes; parents receive a gradient if the callable is differentiable."""
        value = self.forward(parents, latents, noise)
        return value if self.variable.levels is None else F.one_hot(value, len(self.variable.levels)).float()

    def conditional_loss(self, parents: Mapping[str, Tensor], value: Tensor, generator: torch.Generator) -> Tensor:
        """Negative log density of each row, ``[n]``, for evaluation; the callable is not trained.

        Raises:
            TypeError: If the callable has no density.
        """
        return -self.log_prob(parents, (), value)

    @property
    def can_abduct(self) -> bool:
        """Whether the callable has ``invert``, or takes no noise."""
        return self.source.invert is not None or not self.noise_size

    def abduct(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor, fresh: Tensor) -> Tensor:
        """Noise from the callable's ``invert``, ``[n, noise_size]``; see the base class."""
        if not self.noise_size:
            return fresh
        if self.source.invert is None:
            return super().abduct(parents, latents, value, fresh)
        decoded = _unstandardised(self.variable, value) if self.variable.levels is None else value
        return torch.as_tensor(self.source.invert(self._decoded_parents(parents), decoded, fresh)).view_as(fresh)

    def config(self) -> dict[str, Any]:
        """The type only: the callable must be passed again when a model is loaded."""
        return {"type": "pretrained"}


class _FrozenDensity(Frozen):
    """Frozen mechanism whose callable has a density."""

    has_density: ClassVar[bool] = True

    def log_prob(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor) -> Tensor:
        """Log density of the standardised value in nats, ``[n]``."""
        assert self.source.log_prob is not None
        decoded = self._decoded_parents(parents)
        if self.variable.levels is not None:
            return torch.as_tensor(self.source.log_prob(decoded, value))
        log_density = torch.as_tensor(self.source.log_prob(decoded, _unstandardised(self.variable, value)))
        # change of variables to the standardised value
        scale = self.variable.scale
        entries = (scale,) * (self.variable.size or 1) if isinstance(scale, float) else scale or ()
        return log_density + sum(math.log(entry) for entry in entries)


class _FrozenLogits(Frozen):
    """Frozen mechanism whose callable returns logits, sampled by the Gumbel-max trick."""

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
        """Number of levels: each has a Gumbel variate."""
        return self.variable.num_levels

    def _row_shape(self) -> tuple[int, ...]:
        return (self.variable.num_levels,)

    def _logits(self, parents: Mapping[str, Tensor], noise: Tensor) -> Tensor:
        # some levels may be impossible, but not all
        logits = check_finite(self.variable, self._call_module(parents, noise), "logits", impossible=True)
        if bool((logits == -math.inf).all(-1).any()):
            raise MdcmError(f"the pretrained mechanism of {self.variable.name!r} makes every level impossible in a row")
        return logits

    def forward(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor) -> Tensor:
        """Codes of the levels with the largest perturbed logit, int64 ``[n]``; see the base class."""
        return (self._logits(parents, noise) + noise).argmax(-1)

    def relaxed(
        self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], noise: Tensor, temperature: float
    ) -> Tensor:
        """One-hot values with the gradient of the softmax; see the base class."""
        logits = self._logits(parents, noise)
        packing = kernels.Packing([self.noise_size], device=logits.device)
        return kernels.gumbel_softmax(logits, packing, temperature, noise)

    def log_prob(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor) -> Tensor:
        """Log probability of the observed codes in nats, ``[n]``."""
        table = self._logits(parents, value.new_zeros(len(value), self.noise_size, dtype=torch.float32))
        return table.log_softmax(-1).gather(-1, value[:, None]).squeeze(-1)

    @property
    def can_abduct(self) -> bool:
        """True: the posterior of the Gumbel noise is known."""
        return True

    def abduct(self, parents: Mapping[str, Tensor], latents: Sequence[Tensor], value: Tensor, fresh: Tensor) -> Tensor:
        """Gumbel noise given the observed level, drawn exactly; see :meth:`Categorical.abduct`."""
        return winning_noise(self._logits(parents, fresh), value, fresh)


def _unstandardised(variable: Variable, value: Tensor) -> Tensor:
    """Convert standardised numbers to the units of the data; images stay unchanged."""
    if variable.mean is None and variable.scale is None:
        return value
    mean, scale = _moments(variable, value)
    return value * scale + mean


def _standardised(variable: Variable, value: Tensor) -> Tensor:
    """Standardise numbers in the units of the data as float32; images stay unchanged."""
    value = value.float()
    if variable.mean is None and variable.scale is None:
        return value
    mean, scale = _moments(variable, value)
    return (value - mean) / scale


def _moments(variable: Variable, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale of a variable, 0 and 1 by default, as tensors of the type and on the device of another."""
    mean = like.new_tensor(0.0 if variable.mean is None else variable.mean)
    scale = like.new_tensor(1.0 if variable.scale is None else variable.scale)
    return mean, scale
