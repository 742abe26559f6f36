"""From a recipe to a result: the walk over the blocks, its events, and what comes out."""
