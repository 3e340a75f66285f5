"""The receiving faces: hubs in an event loop, in a thread of their own, and polled hubs."""
