"""ONNX Runtime: ONNX files on the CPU, or on a GPU where it offers one."""
