"""A backend with trips in its own PostgreSQL, and their chat on Supabase."""
