"""What can be probed: one task per file."""
