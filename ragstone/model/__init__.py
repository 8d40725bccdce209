"""An embedding model as files: what it is, how it is used, and the graph that is made of its weights. Nothing here runs it."""
