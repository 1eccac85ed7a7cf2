"""The built-in prompts, as data: one file per group, one prompt per line, in the format of files of one's own."""
