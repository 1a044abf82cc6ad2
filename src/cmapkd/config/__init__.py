"""Config files: sections and keys (schema), reading (text, tree, load), error messages (explain), a template (starter)."""
