"""Recommendations from a trained model: lists, HTTP service, exports. Imports no training code."""
