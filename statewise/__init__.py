"""Statewise: language models that reason without attention."""
