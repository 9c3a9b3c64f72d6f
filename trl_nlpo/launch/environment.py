"""What a run runs on: versions, device and processes."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version


_PACKAGES = ("trl", "torch", "transformers", "peft", "accelerate", "datasets")


def versions() -> dict[str, str | None]:
    """Versions of Python, this package and those it stands on; None for one that is not installed."""
    from .. import __version__

    found: dict[str, str | None] = {"python": platform.python_version(), "trl-nlpo": __version__}
    return found | {package: _version(package) for package in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def is_set(variable: str) -> bool:
    """Whether a launcher has switched something on by a variable of the environment."""
    return os.environ.get(variable, "").lower() in ("1", "true", "yes")


def is_first_process() -> bool:
    """Whether a launcher started this process as the first, or no launcher did; known before processes can talk."""
    return os.environ.get("RANK", "0") == "0"


def device() -> str:
    """The device that training takes, in words."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return f"cuda ({', '.join(names)})"
    if torch.backends.mps.is_available():
        return "mps"
    return f"cpu ({torch.get_num_threads()} threads)"


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(index) for index in range(count)] if named is None else named.split(",")[:count]
