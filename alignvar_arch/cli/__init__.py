"""The console command `basicsr`: train, test, convert, list, doctor."""

from alignvar_arch.cli.main import main

__all__ = ["main"]
