"""Patches and frames with their truth."""
