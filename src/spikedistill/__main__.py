"""`python -m spikedistill` is the console script."""

import sys

from spikedistill.cli import main

sys.exit(main())
