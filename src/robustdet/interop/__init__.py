"""Other people's things, spoken to in their own words: checkpoints of other SSDs, and what else detectors come in."""
