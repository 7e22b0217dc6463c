"""The parts of the study of Para-Formers; `benchmarks/paraformer_study.py` runs them."""
