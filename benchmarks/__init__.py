"""What Episight costs, measured beside what people would use instead; run by hand."""
