"""The cost of `import mirror.hooks` for a backend, measured in fresh interpreters."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
# The distribution needs none of these; only its extras do.
EXTRAS = (
    "celery",
    "httpx",
    "kombu",
    "psycopg",
    "pydantic",
    "pydantic_settings",
    "supabase",
    "typer",
)
# structlog imports it, if it is installed, to print tracebacks in colour.
LOADED_BY_STRUCTLOG = ("rich",)
# SQLAlchemy needs it for asyncio only, and does not always install it.
FOR_ASYNCIO = ("greenlet",)

RECORD = """
from mirror import hooks
hooks.check()
"""


def run(program: str, **environment: str) -> str:
    """Run a program in a new interpreter and return its output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_hooks_load_nothing_that_only_the_worker_needs() -> None:
    """Declarations, and hooks that use them, load nothing of it either."""
    loaded = json.loads(
        run(
            f"{RECORD}\nimport json, sys\n"
            f"print(json.dumps([name for name in {EXTRAS!r} if name in sys.modules]))",
            MIRROR_MAPPINGS="mappings.trips",
            REDIS_URL="redis://127.0.0.1:9/0",
        )
    )
    assert loaded == []


def test_a_backend_without_any_extra_can_import() -> None:
    """The hooks, the migrations for an Alembic revision, and its own declarations."""
    missing = (*EXTRAS, *LOADED_BY_STRUCTLOG, *FOR_ASYNCIO)
    run(
        f"import sys\nsys.modules.update(dict.fromkeys({missing!r}))\n"
        "import mirror.hooks\nimport mirror.schema\nimport mappings.trips"
    )


def test_importing_the_library_reads_no_settings_and_starts_no_thread() -> None:
    """Malformed settings are reported at their use; a server that forks would lose a thread."""
    printed = run(
        "import mirror.hooks, threading\nprint(threading.active_count())",
        REDIS_URL="nonsense",
        MIRROR_MAPPINGS="no.such",
        MIRROR_DOORBELL="x",
    )
    assert printed.strip() == "1"


FORMER = {"mapping": "Mapping", "registry": "Registry", "migrations": "upgrade", "outbox": "OUTBOX"}


def test_a_former_import_path_still_works_and_warns() -> None:
    """An Alembic revision of last year imports from an old path."""
    output = run(
        "import importlib, warnings\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        f"    for former, name in {FORMER!r}.items():\n"
        "        getattr(importlib.import_module(f'mirror.{former}'), name)\n"
        "print([str(w.message) for w in caught if w.category is DeprecationWarning])"
    )
    assert [former for former in FORMER if f"mirror.{former} has moved" not in output] == []


def test_declarations_come_from_the_package_itself() -> None:
    """`mirror` has each name of its __all__, and no other."""
    run(
        "import mirror\nfor name in mirror.__all__:\n    getattr(mirror, name)\n"
        "assert not hasattr(mirror, 'no_such')"
    )
