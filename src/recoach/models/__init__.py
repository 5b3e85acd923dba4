"""Recommender models with one interface, their losses and their checkpoints."""
