"""What it costs, measured beside what it is measured against, in one run."""
