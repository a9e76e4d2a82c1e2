"""Linear probes: what can be read off a backbone's frozen tokens."""
