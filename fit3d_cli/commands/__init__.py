"""One file per verb: options to settings, one library call, a table and the next command."""
