"""Safe reading of a diffusion pipeline that diffusers saved in a folder: no code is run, nothing is downloaded."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mdcm.errors import MdcmError
from mdcm.mechanisms.denoising import Network, denoise_backwards, diffusers_part, sampling_steps
from mdcm.text.documents import parse_json

__all__ = ["ImagePipeline", "read_pipeline"]

_INDEX = "model_index.json"
_MAX_JSON_BYTES = 1 << 20
# formats that can run code when read
_UNSAFE = {".py", ".pyc", ".so", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5"}


class _ClassWeights(nn.Module):
    """Class embedding of one-hot rows, so that they receive a gradient."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.weight = embedding.weight

    def forward(self, one_hot: Tensor) -> Tensor:
        return one_hot @ self.weight[: one_hot.shape[1]]


class ImagePipeline(nn.Module):
    """Denoising network and scheduler as a function from parents and noise to images; see :func:`read_pipeline`.

    Args:
        unet: A UNet2DModel.
        scheduler: A DDIMScheduler.
        label: Name of the categorical parent that is the class label, or None.
        steps: Steps of the sampler.
    """

    def __init__(self, unet: Any, scheduler: Any, label: str | None, steps: int) -> None:
        super().__init__()
        size = unet.config.sample_size
        height, across = (size, size) if isinstance(size, int) else size
        self.shape = (int(unet.config.in_channels), int(height), int(across))
        self.noise_size = math.prod(self.shape)
        self.label, self.steps, self.scheduler = label, steps, scheduler
        self.unet = unet
        if label is not None:
            self.unet.class_embedding = _ClassWeights(unet.class_embedding)

    def _network(self, parents: Mapping[str, Tensor]) -> Network:
        labels = None if self.label is None else parents[self.label]

        def network(state: Tensor, time: Tensor) -> Tensor:
            output: Tensor = self.unet(state, time, class_labels=labels).sample
            return output

        return network

    def forward(self, parents: Mapping[str, Tensor], noise: Tensor) -> Tensor:
        """Images in [-1, 1], ``[n, c, h, w]``."""
        image = noise.view(len(noise), *self.shape)
        for step in sampling_steps(self._network(parents), self.scheduler, self.steps):
            image = step(image)
        return image

    def invert(self, parents: Mapping[str, Tensor], value: Tensor, fresh: Tensor) -> Tensor:
        """Noise ``[n, noise_size]`` for which :meth:`forward` returns the images."""
        network = self._network(parents)
        return denoise_backwards(network, self.scheduler, self.steps, value, fresh.view_as(value)).flatten(1)


def read_pipeline(path: Path, label: str | None, steps: int) -> ImagePipeline:
    """Read the pipeline in a folder; see :meth:`mdcm.mechanisms.Pretrained.from_diffusers`.

    Raises:
        MdcmError: If diffusers is not installed, or the folder does not hold a supported pipeline.
        ValueError: If ``steps`` is out of range.
    """
    model, scheduler_class = diffusers_part("UNet2DModel"), diffusers_part("DDIMScheduler")
    index = _json(path / _INDEX)
    _check_folder(path)
    parts = {name: part for name, part in index.items() if not name.startswith("_") and part is not None}
    required = {"unet": "UNet2DModel", "scheduler": None}
    for name, part in parts.items():
        well_formed = isinstance(part, list) and len(part) == 2 and part[0] == "diffusers"
        if name not in required or not well_formed or (required[name] or part[1]) != part[1]:
            raise MdcmError(
                f"{path / _INDEX}: the part {name!r} is {part}; only a UNet2DModel and a scheduler can be read. Load "
                "another pipeline yourself, and pass a function of it: Pretrained(function)"
            )
    if set(parts) != set(required):
        raise MdcmError(f"{path / _INDEX} names the parts {sorted(parts)}; {sorted(required)} are needed")
    config = _json(path / "unet" / "config.json")
    stored = _count_weights(path / "unet")
    if _too_large(config, stored):
        raise MdcmError(f"{path / 'unet'} describes a larger network than it has weights for")
    try:
        with torch.device("meta"):
            described = sum(parameter.numel() for parameter in model.from_config(config).state_dict().values())
        if described != stored:
            raise MdcmError(f"{path / 'unet'} describes {described:,} weights and holds {stored:,}")
        unet = model.from_pretrained(
            str(path / "unet"), use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
        )
        settings = _json(path / "scheduler" / "scheduler_config.json")
        # always sample by DDIM; a scheduler of another class only supplies the noise schedule of the training
        scheduler = scheduler_class.from_config({**settings, "clip_sample": False, "thresholding": False})
    except MdcmError:
        raise
    except Exception as error:
        # on unexpected values diffusers raises exceptions of any kind
        raise MdcmError(f"{path} cannot be read as a pipeline: {error}") from error
    classes = unet.config.num_class_embeds
    if (label is None) != (classes is None) or unet.config.class_embed_type is not None:
        what = f"{classes} classes; name the parent that holds them: label=..." if classes else "no classes to label"
        raise MdcmError(f"the network in {path} has {what}")
    size = unet.config.sample_size
    pair = [size, size] if isinstance(size, int) else size
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
        raise MdcmError(f"{path / 'unet'} does not say how large its images are: its sample_size is {size!r}")
    if not isinstance(steps, int) or not 1 <= steps <= scheduler.config.num_train_timesteps:
        raise ValueError(f"steps must be from 1 to {scheduler.config.num_train_timesteps}, not {steps!r}")
    return ImagePipeline(unet, scheduler, label, steps)


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise MdcmError(f"{path} is too long to be a description")
        content = parse_json(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise MdcmError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise MdcmError(f"{path} does not describe a pipeline")
    return content


def _check_folder(path: Path) -> None:
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in _UNSAFE:
            raise MdcmError(
                f"{file} could run code when it is read; only JSON and safetensors are accepted. Save the pipeline "
                "with safe_serialization=True, into a new folder"
            )


def _count_weights(folder: Path) -> int:
    """Number of weights in the safetensors files of a network, according to their headers."""
    files = sorted(folder.glob("diffusion_pytorch_model*.safetensors"))
    # the folder may also hold variants in other precisions
    weights = [file for file in files if file.stem == "diffusion_pytorch_model" or "-of-" in file.stem]
    if not weights:
        raise MdcmError(f"{folder} holds no diffusion_pytorch_model.safetensors")
    total = 0
    for file in weights:
        try:
            with file.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                if length > min(file.stat().st_size, _MAX_JSON_BYTES):
                    raise ValueError("its header is longer than the file or than a description")
                header = parse_json(stream.read(length))
            count = sum(math.prod(part["shape"]) for name, part in header.items() if name != "__metadata__")
            # memory for all of them is allocated before they are read
            if not 0 <= count <= file.stat().st_size - 8 - length:
                raise ValueError(f"its header says {count:,} numbers, for which it is too short")
            total += count
        except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
            raise MdcmError(f"{file} is damaged: {error}") from error
    return total


def _too_large(config: Any, stored: int) -> bool:
    """Whether a number or a list in a configuration exceeds the number of stored weights."""
    if isinstance(config, dict):
        return any(_too_large(value, stored) for value in config.values())
    if isinstance(config, list):
        return len(config) > stored or any(_too_large(value, stored) for value in config)
    return isinstance(config, int | float) and not abs(config) <= max(stored, 1)
