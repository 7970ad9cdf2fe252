"""Supabase: prints SQL for services that only a Supabase project has.

It prints policies for Realtime's private channels and for folders in Storage, and triggers that
notify users over Realtime when their memberships change.
"""
