"""A game's backend, and what its players write on Supabase."""
