"""What the zero-shot matching tasks (transfer, track, pose) compute with their features."""
