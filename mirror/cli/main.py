"""Main: the entry point of the `mirror` command, its table of commands, and its exit codes.

The exit codes: 0 success · 1 something is wrong with the mirror · 2 wrong usage or settings, a
missing extra, or a PostgreSQL that is too old · 3 a reconcile held deletes back until a person
confirms them · 4 a database or Redis does not answer, or is not migrated · 5 a dry run found
work · 130 stopped by Ctrl-C.

This module imports only the standard library and the errors: it has to run without the extras, to
name the one that is missing.
"""

import gc
import sys
from typing import Any, Final, NamedTuple

from mirror.cli.errors import reported_errors
from mirror.cli.signals import INTERRUPTED, leave_at_interrupt
from mirror.errors.extras import require_worker_extra


class Command(NamedTuple):
    """A command, whose module is imported when it runs, and not for `mirror --help`."""

    place: str
    """The module below `mirror.cli`, and the function in it: `operate:drain`."""
    summary: str
    """The first paragraph of the function's docstring, as `mirror --help` prints it."""
    context: dict[str, Any] | None = None
    """Typer's `context_settings`."""


COMMANDS: Final[dict[str, Command]] = {
    "init": Command(
        "init:init",
        "Write a mappings module: the declarations of one kind of resource and its members.",
    ),
    "check": Command(
        "check:check",
        "Check settings, mappings, printed SQL and models; connect to nothing, as in CI.",
    ),
    "migrate": Command(
        "schema:migrate",
        "Install or update schema `mirror` on both sides, and the mirrored tables in the target.",
    ),
    "ddl": Command(
        "schema:ddl",
        "Print the SQL that follows from the declarations; connect to no database.",
    ),
    "uninstall": Command(
        "uninstall:uninstall",
        "Print the SQL that removes one side of the mirror from its database, or run it.",
    ),
    "drain": Command(
        "operate:drain",
        "Mirror the waiting events now, in this process, without Celery; delete expired rows.",
    ),
    "relay": Command(
        "relay:relay",
        "Watch the outbox and wake the workers when events arrive, until stopped.",
    ),
    "run": Command(
        "run:run",
        "Mirror changes as they come, sweep, purge and reconcile, until stopped; needs no Redis.",
    ),
    "health": Command(
        "health:health",
        "Exit with 1 if a part of the mirror should be restarted; an outage restarts nothing.",
    ),
    "serve": Command(
        "serve:serve", "Serve the page, /metrics, /healthz and /readyz until stopped."
    ),
    "status": Command(
        "operate:status",
        "Print waiting and failed events, and whether target and primary belong together.",
    ),
    "doctor": Command(
        "doctor:doctor",
        "Check both sides and the processes between them; print each problem with its remedy.",
    ),
    "retry": Command(
        "operate:retry",
        "Retry buried (given up) events, with as many attempts as a new event has.",
    ),
    "discard": Command(
        "operate:discard",
        "Delete events that failed and can never succeed, such as one with a malformed key.",
    ),
    "resync": Command(
        "operate:resync",
        "Record all rows as changed, so that workers mirror all of them again.",
    ),
    "rebase": Command(
        "operate:rebase",
        "Accept a primary that was restored, moved, or replaced after a failover.",
    ),
    "retarget": Command(
        "operate:retarget",
        "Accept a target that was restored, emptied, or replaced by another project.",
    ),
    "purge": Command(
        "operate:purge",
        "Delete tombstones and fences of scopes older than MIRROR_TOMBSTONE_DAYS; raise the "
        "horizon.",
    ),
    "reconcile": Command(
        "reconcile:reconcile",
        "Compare both sides and repair all differences; also loads a new target.",
    ),
    "sync": Command("reconcile:sync_", "Mirror the rows with these keys now."),
    "verify": Command(
        "verify:verify",
        "Compare a random sample of rows, or of permissions, on both sides; change nothing.",
    ),
    "access": Command(
        "access:access",
        "List the users of a resource, or the resources of a user, as row-level security decides.",
    ),
    "explain": Command(
        "explain:explain",
        "Explain why a user is allowed or refused, and name the first step that decides it.",
        # For options like `--trip ID`: the registry's nouns are unknown before the command runs.
        {"allow_extra_args": True, "ignore_unknown_options": True},
    ),
    "demo": Command(
        "stack:demo",
        "Run the trip chat example on real servers, check every expectation, and clean up.",
    ),
    "dev": Command(
        "stack:dev", "Run the demo's servers and a worker until Ctrl-C, and print their URLs."
    ),
}


def main() -> None:
    """Run the command; print the library's errors as one line and exit with their codes."""
    leave_at_interrupt()
    # Modules are no garbage. To search them while they are imported, and at the end, takes a third
    # of the time of a short command.
    gc.disable()
    try:
        with reported_errors():
            require_worker_extra("the command `mirror`")
            from mirror.cli.app import app  # noqa: PLC0415 - needs that extra

            app(prog_name="mirror")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        leave_at_interrupt()
        gc.freeze()
