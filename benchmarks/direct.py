"""Direct: a simple alternative to the mirror, with one Celery task and one upsert for each event.

A backend would write it like this at first. The Celery app has one task that uses psycopg, and one
that uses supabase-py.
"""

import os
from functools import cache

import psycopg
from celery import Celery
from supabase import Client, create_client

app = Celery("direct", broker=os.environ.get("REDIS_URL"))
app.conf.task_ignore_result = True
app.conf.task_default_queue = "direct"

TABLE = """
create table if not exists public.direct (
  trip_id uuid, user_id uuid, role text, status text,
  primary key (trip_id, user_id), unique (user_id, trip_id)
);
grant all on public.direct to service_role
"""

_UPSERT = """
insert into public.direct (trip_id, user_id, role, status) values (%s, %s, %s, %s)
on conflict (trip_id, user_id) do update set role = excluded.role, status = excluded.status
"""


@cache
def _connection() -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(os.environ["SUPABASE_DB_URL"], autocommit=True)


@cache
def _client() -> Client:
    return create_client(os.environ["SUPABASE_URL"], os.environ["SUPABASE_SECRET_KEY"])


@app.task  # type: ignore[untyped-decorator]
def upsert(trip_id: str, user_id: str, role: str, status: str) -> None:
    """Write one row over a database connection."""
    _connection().execute(_UPSERT, [trip_id, user_id, role, status])


@app.task  # type: ignore[untyped-decorator]
def upsert_over_rest(trip_id: str, user_id: str, role: str, status: str) -> None:
    """Write one row over the REST API."""
    row = {"trip_id": trip_id, "user_id": user_id, "role": role, "status": status}
    _client().table("direct").upsert(row).execute()
