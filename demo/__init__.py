"""The main job on a small real model: a class-conditional digit generator in Flux.1's layout, trained here.

``run.run_demo`` calibrates, converts and compares it; ``train`` makes its checkpoint. torch is imported by the
modules, not here.
"""
