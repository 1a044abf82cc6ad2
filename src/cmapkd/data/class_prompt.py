"""CLASS_PROMPT: the prompt template that turns a class name into a sentence."""

CLASS_PROMPT = "a photo of a {}"
