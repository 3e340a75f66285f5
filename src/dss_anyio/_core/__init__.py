"""The state that threads share. It knows no event loop and no socket."""
