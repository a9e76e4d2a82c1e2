"""``python -m fit3d_cli`` is the ``fit3d`` command."""

from fit3d_cli.app import main

main()
