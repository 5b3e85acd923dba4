"""Simulated shops: a synthetic log, a Gymnasium environment, bandits."""
