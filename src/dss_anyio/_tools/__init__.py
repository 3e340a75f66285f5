"""Tools that look at hubs from outside. Nothing of the core knows them."""
