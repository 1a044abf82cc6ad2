"""`python -m cmapkd`."""

from __future__ import annotations

import sys

from cmapkd.cli.main import main

sys.exit(main())
