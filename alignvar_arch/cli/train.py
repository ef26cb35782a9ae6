"""`basicsr train`: BasicSR's training pipeline on the current folder."""

from alignvar_arch.cli.pipeline import run_pipeline


def run(argv: list[str]) -> int:
    """Trains; returns 0."""
    import basicsr.train

    return run_pipeline(basicsr.train, basicsr.train.train_pipeline, argv, is_train=True)
