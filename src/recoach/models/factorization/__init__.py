"""Matrix factorization: one free vector per user and per item."""
