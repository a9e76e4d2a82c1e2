"""Benchmarks of fit3d: rivals of our own writing, a harness that interleaves, honest tables."""
