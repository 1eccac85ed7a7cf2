"""What `writer` is made of: the file in the making, its journal, what is on disk of it, what a killed conversion left."""
