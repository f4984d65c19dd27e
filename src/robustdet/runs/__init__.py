"""A run of training: what it was told, what it has made, what identifies it."""
