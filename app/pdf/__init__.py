"""Reading PDFs: hostile bytes in, clean pages out.

Here is what owns the reading processes, in `sandbox` what runs in them; `pages`, `text`, `wire` and
`escapes` belong to both.
"""
