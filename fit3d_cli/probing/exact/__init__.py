"""The published protocols: heads trained on augmented crops, the frozen backbone run every step."""
