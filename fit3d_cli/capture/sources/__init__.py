"""What becomes a capture first: one file per kind of source, found by the registry."""
