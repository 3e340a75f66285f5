"""How a receiver sleeps and wakes in an event loop."""
