"""The demo: a real classifier serves a stream in which things go wrong at known moments."""
