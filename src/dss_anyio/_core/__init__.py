"""What threads share: no event loop and no socket below this line."""
