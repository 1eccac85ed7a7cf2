"""The main job on a small real model: a class-conditional digit generator in Flux.1's layout, trained here.

``run.run_demo`` calibrates, converts and compares it; ``train`` makes its checkpoint, and that of a second model in
SD3's layout (``mmdit``), which benchmarks measure beside it. torch is imported by the modules, not here.
"""
