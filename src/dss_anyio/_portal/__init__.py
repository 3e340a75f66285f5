"""The sending face: portals, feeds, and the functions that other threads call."""
