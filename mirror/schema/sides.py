"""Sides: the two kinds of databases that migrations know, with their names in messages."""

from typing import Literal

Side = Literal["primary", "supabase"]

ROLE: dict[Side, str] = {"primary": "primary", "supabase": "target"}
"""The name of each side's database in messages."""

VARIABLE: dict[Side, str] = {"primary": "PRIMARY_DATABASE_URL", "supabase": "SUPABASE_DB_URL"}
"""The environment variable with the URL of each side."""

OTHER: dict[Side, Side] = {"primary": "supabase", "supabase": "primary"}
