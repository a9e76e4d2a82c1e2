"""The second stage: a backbone learns to produce the view-consistent features of lifted scenes."""
