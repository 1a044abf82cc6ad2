"""Hard negatives: is the true sentence nearer to the image than one that differs in a single attribute or relation?"""
