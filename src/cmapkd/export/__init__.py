"""Export of a trained student: open_clip folder, Hugging Face folder, ONNX, model card."""
