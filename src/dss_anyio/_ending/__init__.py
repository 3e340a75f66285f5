"""The order in which a hub ends, and each way in which a hub ends without a ``finally``."""
