"""A law firm's backend, and the chat of its consultations on Supabase."""
