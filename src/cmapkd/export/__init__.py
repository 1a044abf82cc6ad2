"""Export of a trained student: folder of open_clip or Hugging Face, ONNX, model card."""
