"""TensorRT: one code path for tensorrt_rtx 1.7, tensorrt 10.12 and later, and tensorrt 11.

Networks are strongly typed, so precision comes from the graph; no name that 11 removed is touched; what a library can
do is asked of the library, never concluded from its version.
"""
