"""`python -m alignvar_arch` is the console command `basicsr`."""

from alignvar_arch.cli import entry

entry()
