"""Rivals on the CPU, all of our own writing, in plain torch."""
