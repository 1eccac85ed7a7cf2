"""Calibrating on running ComfyUI servers: what to generate, how to ask for it, and how to add it up.

A workflow in API format is read (`workflow`), what may vary in it is found (`factors`), NVFP4Calibrate is put
behind the model (`insertion`), and a plan of generations is made (`design`, `prompts`). Each generation is a job
(`board`) that one server carries out (`client`, `driver`) and that is counted once in the work folder (`journal`).
"""
