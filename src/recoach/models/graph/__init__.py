"""Models that propagate vectors over the graph of users and items."""
