"""`basicsr train`: BasicSR's training pipeline on the current folder."""

import basicsr.train

from alignvar_arch.cli.pipeline import run_pipeline
from alignvar_arch.cli.plugins import Plugin


def run(argv: list[str], _plugins: list[Plugin]) -> int:
    """Trains; returns 0."""
    run_pipeline(basicsr.train, basicsr.train.train_pipeline, argv, is_train=True)
    return 0
