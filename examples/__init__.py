"""Runnable examples, one folder per permission model."""
