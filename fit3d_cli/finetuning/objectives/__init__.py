"""What is minimised: one term per file, each with its source."""
