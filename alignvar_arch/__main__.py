"""`python -m alignvar_arch` is the console command `basicsr`."""

import sys

from alignvar_arch.cli import main

sys.exit(main())
