"""Deadly worker: drains once, and dies or stops when it writes a certain text.

Arguments: the URLs of both sides, the text, and `die` or `wait`.
"""

import os
import signal
import sys
from collections.abc import Sequence

from mappings.trips import registry
from mirror.settings import load_settings
from mirror.sync.snapshot import Stamp
from mirror.sync.targets.writing import Answers, Section
from mirror.sync.wiring import build_drain

primary, target, poison, action = sys.argv[1:]
drain = build_drain(
    load_settings(primary_database_url=primary, supabase_db_url=target, max_attempts=3), registry
)
apply = drain.target.apply


def deadly(stamp: Stamp, sections: Sequence[Section]) -> Answers:
    """Write, but not the text."""
    if any(poison in text for section in sections for text in section.as_json()):
        if action == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        print("claimed", flush=True)  # noqa: T201 - for the test
        signal.pause()
    return apply(stamp, sections)


drain.target.apply = deadly  # type: ignore[assignment]
drain.run()
