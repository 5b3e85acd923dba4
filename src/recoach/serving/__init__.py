"""Recommendations from a trained model; knows nothing of training."""
