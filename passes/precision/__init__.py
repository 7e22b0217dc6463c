"""Precision: what computes in fp16 or bf16, and what must not."""
