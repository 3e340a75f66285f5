"""How to reach an event loop, or a ``select()`` loop, from any thread; and how a thread waits."""
