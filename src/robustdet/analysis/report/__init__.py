"""One page for a reader who was not there: every record, what the paper says, and reasons to doubt."""
