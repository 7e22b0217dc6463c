"""Programs as ONNX files, in the precision that they shall run in."""
