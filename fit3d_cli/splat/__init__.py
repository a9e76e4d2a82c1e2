"""The splatting engine: ``rasterize`` is the facade, ``reference`` defines what is correct."""
