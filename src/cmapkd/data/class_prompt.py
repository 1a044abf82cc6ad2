"""CLASS_PROMPT: the sentence that stands for a class where data say only its name."""

CLASS_PROMPT = "a photo of a {}"
