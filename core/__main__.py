"""``python -m glint`` is ``glint``."""

import sys

from glint.cli import main

sys.exit(main())
