"""Sequential recommenders: the state is computed from the last items of a history."""
