"""A faithful small GitLab to try lore, to test it and to measure it against.

`python -m lore.demo` serves it; `lore.demo.server.running` and `lore.demo.server.spawn` start one for a test.
Nothing here imports the rest of lore and nothing there imports this, so that it can judge lore from outside.
"""
