"""Synthesis: from concepts to verified problems and worked solutions."""
