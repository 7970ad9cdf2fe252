"""What only a Supabase project has: Realtime's private channels, and folders in Storage."""
