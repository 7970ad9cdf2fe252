"""Supabase: policies for the private channels of Realtime and for folders in Storage."""
