"""Pages for people: the HTML building blocks that all reports share."""
