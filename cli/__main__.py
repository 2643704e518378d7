"""`python -m cli` is `lore`."""

from cli import lore

lore()
