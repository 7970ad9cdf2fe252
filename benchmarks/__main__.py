"""`python -m benchmarks [--quick]`."""

import sys

from benchmarks import capture, policies

rounds = 2 if "--quick" in sys.argv else 7
capture.main(rounds)
policies.main(rounds)
