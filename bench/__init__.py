"""Measurements of the daemon against baselines taken in the same run. `scripts/bench` runs them; see its header."""
