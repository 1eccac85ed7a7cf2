"""Comparing models on a running ComfyUI server: the same prompts and seeds, times and pictures side by side.

A workflow's loader is found and given one model after the other (`loading`), in an order that a machine's drift
cannot favour (`schedule`). The server carries a generation out and tells its own times (`asking`, `timing`,
`memory`, `runner`); what is done is kept (`journal`), so that a stopped run goes on. One JSON holds everything
(`result`, `figures`, `quality`, `hardware`); the page and the pictures are made from it alone (`page`, `plots`, `sheet`).
"""
