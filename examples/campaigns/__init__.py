"""A game's backend, and the data that its players write on Supabase."""
