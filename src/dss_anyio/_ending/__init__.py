"""The order of the end, and every end that runs no ``finally``."""
