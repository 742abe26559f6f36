"""Looking at a model's sites while it reads a text: taps, and a capture on disk that pages and the command line share."""
