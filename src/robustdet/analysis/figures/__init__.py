"""The paper's figures and some of our own, made from checkpoints: one file a figure, found by `conf/analysis/*.yaml`.

Each file holds the numbers (a function from observations or detectors to rows) and their drawing (from rows to a
figure): a figure can be drawn anew from its CSV alone.
"""
