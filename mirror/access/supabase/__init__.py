"""Supabase: declarations about services that only a Supabase project has, and their SQL.

They are policies on Realtime's private channels and on folders in Storage, and triggers that notify
users over Realtime when their memberships change.
"""
