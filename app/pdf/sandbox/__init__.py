"""What runs in the reader's own processes, which alone parse PDFs: their owner imports none of it."""
