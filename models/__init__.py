"""The tables of lore: content (what GitLab said) and control (what lore does), and the database they live in."""
