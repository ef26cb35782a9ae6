"""The console command `basicsr`: train, test, convert, list, doctor."""

from alignvar_arch.cli.main import entry, main

__all__ = ["entry", "main"]
