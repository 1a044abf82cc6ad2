"""The config: what it may hold (schema), how it is read (text, load), what errors say (explain), a start (starter)."""
