"""Components that ship with the core. They are parts, not algorithms."""
