"""Parts of `output_error.py`: layers with real inputs, our methods, other converters, the table."""
