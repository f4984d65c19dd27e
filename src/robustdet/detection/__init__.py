"""A default-box detector: network, criterion and post-processing, each usable alone (SSD, W. Liu et al., ECCV 2016)."""
