"""The console command `basicsr`: train, test, list, doctor."""

from alignvar_arch.cli.main import main

__all__ = ["main"]
