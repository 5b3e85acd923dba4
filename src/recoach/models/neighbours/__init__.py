"""Recommenders that are computed from counts of interactions, without gradient steps."""
