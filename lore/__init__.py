"""lore: settings, logs, terminal and the speakers of outside services, above the pure rules of `lore.core`."""

__version__ = "0.1.0"
