"""Graph recommenders: embeddings are propagated over the user-item graph."""
