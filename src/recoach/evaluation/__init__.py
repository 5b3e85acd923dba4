"""Ranking kernels, metrics and significance."""
