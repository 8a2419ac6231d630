"""Diagnosis of the installation: versions, devices, kernels, extras, and problems."""

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
    """Result of one check.

    Attributes:
        topic: Group of the check.
        name: Name of the checked item.
        value: Version, path or description of the item.
        state: "ok"; "note" for an optional item that is missing; "broken" for a necessary one.
        advice: Remedy.
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
    """Check everything that mdcm needs or can use on this machine.

    Returns:
        Findings, by topic.

    Example:
        >>> [finding.name for finding in diagnose() if finding.state == "broken"]
        []
    """
    return [*_versions(), *_core(), *_devices(), *_kernels(), *_extras(), *_files()]


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions() -> list[Finding]:
    findings = [
        Finding("versions", "python", platform.python_version()),
        Finding("versions", "mdcm", _installed("mdcm") or "not installed"),
    ]
    for package in _NEEDED:
        version = _installed(package)
        if version is None:
            advice = f"pip install {package}"
            findings.append(Finding("versions", package, "missing", "broken", advice))
        else:
            findings.append(Finding("versions", package, version))
    return findings


def _core() -> list[Finding]:
    try:
        core = importlib.import_module("mdcm._core")
    except ImportError as error:
        return [
            Finding("core", "C++ core", str(error), "broken", "install mdcm again: pip install --force-reinstall mdcm")
        ]
    return [Finding("core", "C++ core", Path(core.__file__ or "built in").name)]


def _devices() -> list[Finding]:
    findings = [Finding("devices", "CPU", f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")]
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return findings
    if not torch.cuda.is_available():
        build = torch.version.cuda
        why = "this torch is built without CUDA" if build is None else f"torch for CUDA {build} sees no card"
        return [*findings, Finding("devices", "CUDA", f"none: {why}", "note", "models are trained on the CPU")]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        findings.append(Finding("devices", f"cuda:{index}", f"{card.name}, {card.total_memory / 2**30:.0f} GiB"))
    return findings


def _kernels() -> list[Finding]:
    setting = os.environ.get("MDCM_KERNELS", "auto")
    triton = _installed("triton")
    try:
        cuda = bool(importlib.import_module("torch").cuda.is_available())
    except ImportError:
        cuda = False
    precision = Finding("kernels", "precision", os.environ.get("MDCM_PRECISION", "tf32 for gradients, ieee for values"))
    if setting not in {"auto", "reference", "triton"}:
        advice = "set MDCM_KERNELS to auto, reference or triton, or unset it"
        return [Finding("kernels", "MDCM_KERNELS", setting, "broken", advice), precision]
    if setting == "triton" and triton is None:
        return [Finding("kernels", "MDCM_KERNELS", "triton, which is not installed", "broken", "pip install triton")]
    fused = setting == "triton" or (setting == "auto" and cuda and triton is not None)
    why = {
        "auto": "on a CUDA card" if fused else "no CUDA card" if not cuda else "Triton is not installed",
        "reference": "MDCM_KERNELS=reference",
        "triton": "MDCM_KERNELS=triton",
    }[setting]
    used = f"Triton {triton}" if fused else "plain torch"
    return [Finding("kernels", "hot paths", f"{used} ({why})"), precision, _graphs(cuda)]


def _graphs(cuda: bool) -> Finding:
    setting = os.environ.get("MDCM_GRAPHS", "auto")
    if setting not in {"auto", "off"}:
        return Finding("kernels", "MDCM_GRAPHS", setting, "broken", "set MDCM_GRAPHS to auto or off, or unset it")
    if not cuda:
        return Finding("kernels", "steps", "one by one (no CUDA card)")
    value = "one by one (MDCM_GRAPHS=off)" if setting == "off" else "captured as CUDA graphs"
    return Finding("kernels", "steps", value)


def _extras() -> list[Finding]:
    findings = []
    for extra, (modules, gives) in _EXTRAS.items():
        missing = [package for package, module in modules.items() if importlib.util.find_spec(module) is None]
        if missing:
            advice = f"for {gives}: pip install 'mdcm[{extra}]'"
            findings.append(Finding("extras", extra, f"missing {', '.join(missing)}", "note", advice))
        else:
            versions = ", ".join(f"{package} {_installed(package)}" for package in modules)
            findings.append(Finding("extras", extra, versions))
    return findings


def _files() -> list[Finding]:
    findings = []
    for name, directory in (("current directory", "."), ("temporary directory", tempfile.gettempdir())):
        try:
            with tempfile.TemporaryFile(dir=directory):
                findings.append(Finding("files", name, "can be written"))
        except OSError as error:
            advice = "runs and results cannot be saved there; use another directory"
            findings.append(Finding("files", name, str(error.strerror or error), "note", advice))
    return findings
