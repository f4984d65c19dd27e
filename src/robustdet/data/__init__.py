"""Data sets as they are on disk, and the batches made of them."""
