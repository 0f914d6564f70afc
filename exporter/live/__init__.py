"""The live page: what a browser shows of the runs, and how it is kept right."""
