"""What a default-box detector is: network, criterion and post-processing, each usable alone (W. Liu et al., ECCV 2016)."""
