"""`basicsr doctor`: versions, device, plugins, what is missing, and how to mend it."""

import os
import platform
import subprocess
import sys
from importlib import metadata

import torch
from basicsr.utils.registry import METRIC_REGISTRY

from alignvar_arch.cli.plugins import Plugin
from alignvar_arch.options import Parser
from alignvar_arch.version import __version__

_PACKAGES = (
    "torch", "torchvision", "basicsr", "numpy", "lmdb", "safetensors", "einops", "scikit-image", "scipy", "PyYAML",
)  # fmt: skip
_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")


def run(argv: list[str], plugins: list[Plugin]) -> int:
    """Prints the report; returns 0 if nothing is missing, else 1."""
    Parser(prog="basicsr doctor", description=__doc__).parse_args(argv)
    missing = []
    print(f"{'alignvar':14} {__version__}\n{'python':14} {platform.python_version()} ({sys.executable})")
    for name in _PACKAGES:
        version = _version(name)
        print(f"{name:14} {version or 'MISSING'}")
        if version is None:
            missing.append(f"{name} is not installed; run: pip install {name}")
    opencv = next((f"{_version(name)} ({name})" for name in _OPENCV if _version(name)), None)
    print(f"{'opencv':14} {opencv or 'MISSING'}")
    if opencv is None:
        missing.append("OpenCV is not installed; run: pip install opencv-python")
    print(f"{'device':14} {_device()}")
    for plugin in plugins:
        print(f"{'plugin':14} {plugin.name} ({plugin.value}): {plugin.error or 'loaded'}")
        if plugin.error:
            missing.append(f"the plugin {plugin.name} does not import; mend or uninstall the package that brings it.")
    for name, metric in METRIC_REGISTRY:
        if hasattr(metric, "unavailable"):
            reason = metric.unavailable()
            print(f"{'metric':14} {name}: {f'left out of validation: {reason}' if reason else 'at hand'}")
    writable = os.access(os.getcwd(), os.W_OK)
    print(f"{'folder':14} {os.getcwd()}: {'writable' if writable else 'NOT writable'}")
    if not writable:
        missing.append("the current folder is not writable, and results go there; run the command in another folder.")
    print(f"{'plain basicsr':14} {_plain_import()}")
    for entry in missing:
        print(f"to mend: {entry}")
    print("something is missing." if missing else "nothing is missing.")
    return 1 if missing else 0


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device() -> str:
    names = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    if names:
        return "; ".join(f"CUDA {entry.name}, {entry.total_memory / 2**30:.0f} GiB" for entry in names)
    return f"CPU, {len(os.sched_getaffinity(0))} cores (no CUDA device)"


def _plain_import() -> str:
    """Says whether `import basicsr` works in a fresh Python without our compat."""
    result = subprocess.run([sys.executable, "-c", "import basicsr"], capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return "`import basicsr` works by itself."
    reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
    return (f"`import basicsr` fails by itself ({reason}); `import alignvar_arch` before it mends that, "
            "and so does the command `basicsr`.")  # fmt: skip
