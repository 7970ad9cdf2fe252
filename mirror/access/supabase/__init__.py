"""Supabase: prints what only a Supabase project has.

Policies for Realtime's private channels and for folders in Storage, and the triggers that tell
users when a membership of theirs changes.
"""
