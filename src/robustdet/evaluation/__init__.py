"""From a detector and a suite of attacks to records that can be believed: run, store, measure, check."""
