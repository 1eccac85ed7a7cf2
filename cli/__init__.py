"""The command line: the same verbs as in ComfyUI, without ComfyUI."""
