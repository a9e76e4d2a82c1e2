"""The first stage: a capture becomes a scene.

Geometry first (RGB and depth), then features solved on the frozen geometry.
"""
