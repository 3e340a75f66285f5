"""Tools that look at hubs from outside. The core imports none of them."""
