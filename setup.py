"""Packaging of AlignVAR. The version is read as text: importing the package here would need torch."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "alignvar_arch/version.py").read_text(encoding="utf-8"))[1]
# selenium drives the browser in which a comparison's page is tested
TEST = ["pytest>=7.4", "selenium>=4.2"]

setup(
    name="alignvar",
    version=VERSION,
    description="Visual autoregressive image super-resolution as a BasicSR plugin",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["alignvar_arch", "alignvar_arch.*"]),
    package_data={"alignvar_arch": ["weights/*", "compare/page/*"]},
    install_requires=[
        "basicsr>=1.4.2",
        "torch>=2.6",
        "torchvision>=0.21",
        "lmdb>=1.4",
        "opencv-python>=4.8",
        "einops>=0.7",
        "matplotlib>=3.7",
        "numpy>=1.23",
        "pillow>=10.1",
        "pyyaml>=6.0",
        "safetensors>=0.4",
        "scipy>=1.15",
        "scikit-image>=0.21",
        # writes TIFFs of 16 bits with a colour profile; scikit-image brings it
        "tifffile>=2022.8.12",
        "tqdm>=4.60",
        # BasicSR imports distutils, which Python 3.12 no longer has and setuptools stands in for
        "setuptools>=65; python_version>='3.12'",
    ],
    extras_require={
        "test": TEST,
        "dev": [*TEST, "ruff>=0.6", "pre-commit>=3"],
        "metrics": ["pyiqa>=0.1.15"],
        "wandb": ["wandb>=0.16"],
    },
    entry_points={
        "console_scripts": ["basicsr = alignvar_arch.cli:entry"],
        "basicsr.plugins": ["alignvar = alignvar_arch"],
    },
)
