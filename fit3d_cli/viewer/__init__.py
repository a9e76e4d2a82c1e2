"""A lifted scene in the browser: layers, click and text queries, and a file to pass on."""
