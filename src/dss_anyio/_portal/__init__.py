"""The sending face: what is given to other threads."""
