"""`basicsr test`: BasicSR's test pipeline on the current folder."""

from alignvar_arch.cli.pipeline import run_pipeline


def run(argv: list[str]) -> int:
    """Tests; returns 0."""
    import basicsr.test

    return run_pipeline(basicsr.test, basicsr.test.test_pipeline, argv, is_train=False)
