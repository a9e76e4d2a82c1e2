"""The CUDA engine: checked calls of ``fit3d_cli._cuda`` on the current torch stream."""
