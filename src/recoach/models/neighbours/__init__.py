"""Models without training by gradient steps: counts and neighbours."""
