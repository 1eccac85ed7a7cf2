"""A page that is put beside a converted model: everything that is known of it, in one JSON and generated from that.

The file itself tells its layers and how it was made (`file`), its report or a verification the errors (`weights`), its
calibration what was seen (`calibrating`), a comparison how it fares on a server (`benchmark`), tables of kernel speeds
what may be expected elsewhere (`predicted`). `card` puts them together, `page` writes the Markdown from that alone.
"""
