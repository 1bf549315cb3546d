"""The engines there are, by name."""

from importlib import import_module

from app.pdf.sandbox.engine import Engine

_ENGINES = {"pdfium": "app.pdf.sandbox.pdfium:Pdfium", "pypdf": "app.pdf.sandbox.pypdf_engine:PyPDF"}


def engine_called(name: str) -> type[Engine]:
    """Each is imported when it is first asked for: pypdf takes 0.2 s."""
    module, _, engine = _ENGINES[name].partition(":")
    found: type[Engine] = getattr(import_module(module), engine)
    return found
