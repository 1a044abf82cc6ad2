"""Models from the places where people have them: open_clip's architectures and folders, Hugging Face folders, files of weights."""
