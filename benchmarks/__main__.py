"""`python -m benchmarks [--quick]`."""

import sys

from benchmarks import capture

capture.main(rounds=2 if "--quick" in sys.argv else 7)
