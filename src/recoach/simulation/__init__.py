"""Simulated shops: a synthetic interaction log, a Gymnasium environment and bandits."""
