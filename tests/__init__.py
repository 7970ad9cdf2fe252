"""Tests: behaviours, on real components."""
