"""Cameras, Gaussians and rotations: pure torch maths without I/O or settings."""
