"""Parts of `picture_quality.py`: pictures and their distance, files to compare, the table."""
