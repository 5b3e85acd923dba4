"""Interaction logs: reading, filtering, splitting, batching."""
