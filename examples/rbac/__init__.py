"""A backend whose roles and permissions live in its own PostgreSQL, and clients that sync."""
