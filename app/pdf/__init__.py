"""Reading PDFs: hostile bytes in, clean pages out, never parsed inside the worker or the API."""
