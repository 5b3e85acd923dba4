"""Recommenders behind one contract, their losses and their files."""
