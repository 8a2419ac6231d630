"""What there is to work with: versions, devices, kernels, extras, and what is amiss."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["Finding", "diagnose"]

_NEEDED = ("numpy", "networkx", "pandas", "torch", "safetensors", "zuko", "pydantic", "rich", "typer", "ruamel.yaml")
# extra: modules that it is for, by the name of their packages, and what it gives
_EXTRAS: dict[str, tuple[dict[str, str], str]] = {
    "images": ({"pillow": "PIL"}, "reading and drawing pictures"),
    "report": ({"matplotlib": "matplotlib"}, "charts in reports"),
    "demo": (
        {"pillow": "PIL", "scikit-learn": "sklearn", "matplotlib": "matplotlib"},
        "the demo, and the experiments with digits",
    ),
    "parquet": ({"pyarrow": "pyarrow"}, "tables in Parquet files"),
    "diffusers": ({"diffusers": "diffusers"}, "pre-trained diffusion pipelines"),
    "ray": ({"ray": "ray"}, "training on several processes or machines"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: What it belongs to.
        name: What it is.
        value: What was found.
        state: Whether that is fine, worth knowing, or broken.
        advice: What to do about it.
    """

    topic: Literal["versions", "core", "devices", "kernels", "extras", "files"]
    name: str
    value: str
    state: Literal["ok", "note", "broken"] = "ok"
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def diagnose() -> list[Finding]:
    """Look at everything that mdcm needs or can use here.

    Returns:
        Findings, by topic.

    Example:
        >>> [one.name for one in diagnose() if one.state == "broken"]
        []
    """
    return [*_versions(), *_core(), *_devices(), *_kernels(), *_extras(), *_files()]


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions() -> list[Finding]:
    found = [
        Finding("versions", "python", platform.python_version()),
        Finding("versions", "mdcm", _installed("mdcm") or "not installed"),
    ]
    for package in _NEEDED:
        version = _installed(package)
        if version is None:
            advice = f"pip install {package}"
            found.append(Finding("versions", package, "missing", "broken", advice))
        else:
            found.append(Finding("versions", package, version))
    return found


def _core() -> list[Finding]:
    try:
        core = importlib.import_module("mdcm._core")
    except ImportError as error:
        return [
            Finding("core", "C++ core", str(error), "broken", "install mdcm again: pip install --force-reinstall mdcm")
        ]
    return [Finding("core", "C++ core", Path(core.__file__ or "built in").name)]


def _devices() -> list[Finding]:
    found = [Finding("devices", "CPU", f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")]
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return found
    if not torch.cuda.is_available():
        build = torch.version.cuda
        why = "this torch is built without CUDA" if build is None else f"torch for CUDA {build} sees no card"
        return [*found, Finding("devices", "CUDA", f"none: {why}", "note", "models are trained on the CPU")]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        found.append(Finding("devices", f"cuda:{index}", f"{card.name}, {card.total_memory / 2**30:.0f} GiB"))
    return found


def _kernels() -> list[Finding]:
    asked = os.environ.get("MDCM_KERNELS", "auto")
    triton = _installed("triton")
    try:
        cuda = bool(importlib.import_module("torch").cuda.is_available())
    except ImportError:
        cuda = False
    precision = Finding("kernels", "precision", os.environ.get("MDCM_PRECISION", "tf32 for gradients, ieee for values"))
    if asked not in {"auto", "reference", "triton"}:
        advice = "set MDCM_KERNELS to auto, reference or triton, or unset it"
        return [Finding("kernels", "MDCM_KERNELS", asked, "broken", advice), precision]
    if asked == "triton" and triton is None:
        return [Finding("kernels", "MDCM_KERNELS", "triton, which is not installed", "broken", "pip install triton")]
    fused = asked == "triton" or (asked == "auto" and cuda and triton is not None)
    why = {
        "auto": "on a CUDA card" if fused else "no CUDA card" if not cuda else "Triton is not installed",
        "reference": "MDCM_KERNELS=reference",
        "triton": "MDCM_KERNELS=triton",
    }[asked]
    used = f"Triton {triton}" if fused else "plain torch"
    return [Finding("kernels", "hot paths", f"{used} ({why})"), precision, _graphs(cuda)]


def _graphs(cuda: bool) -> Finding:
    asked = os.environ.get("MDCM_GRAPHS", "auto")
    if asked not in {"auto", "off"}:
        return Finding("kernels", "MDCM_GRAPHS", asked, "broken", "set MDCM_GRAPHS to auto or off, or unset it")
    if not cuda:
        return Finding("kernels", "steps", "one by one (no CUDA card)")
    return Finding("kernels", "steps", "one by one (MDCM_GRAPHS=off)" if asked == "off" else "captured as CUDA graphs")


def _extras() -> list[Finding]:
    found = []
    for extra, (modules, gives) in _EXTRAS.items():
        missing = [package for package, module in modules.items() if importlib.util.find_spec(module) is None]
        if missing:
            advice = f"for {gives}: pip install 'mdcm[{extra}]'"
            found.append(Finding("extras", extra, f"missing {', '.join(missing)}", "note", advice))
        else:
            found.append(Finding("extras", extra, ", ".join(f"{one} {_installed(one)}" for one in modules)))
    return found


def _files() -> list[Finding]:
    found = []
    for name, directory in (("current directory", "."), ("temporary directory", tempfile.gettempdir())):
        try:
            with tempfile.TemporaryFile(dir=directory):
                found.append(Finding("files", name, "can be written"))
        except OSError as error:
            advice = "runs and results cannot be saved there; use another directory"
            found.append(Finding("files", name, str(error.strerror or error), "note", advice))
    return found
