"""The commands, and all that knows Hydra."""
