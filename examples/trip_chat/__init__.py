"""A backend whose trips live in its own PostgreSQL and whose chat lives on Supabase."""
