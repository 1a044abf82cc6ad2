"""The config: what it may hold (schema), how it is read (text, tree, load), what errors say (explain), a start (starter)."""
