"""A directory of posed photos becomes a ``Capture``; one file per on-disk layout."""
