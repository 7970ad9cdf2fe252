"""Keep a Supabase project authorising exactly what your primary PostgreSQL says."""

__version__ = "0.1.0"
