"""`python -m benchmarks`: measure, print tables, and with --write regenerate docs/benchmarks.md."""

from __future__ import annotations

import sys

from benchmarks.cli import main

sys.exit(main())
