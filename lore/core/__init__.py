"""The rules of lore as pure functions and values: no I/O, no clock, no environment."""
