"""The parent of reading processes to which a file of Python is missing that they load late."""

from app.pdf.sandbox import engines
from app.pdf.sandbox.parent import main

if __name__ == "__main__":
    engines._ENGINES["pdfium"] = "app.pdf.sandbox.missing:Pdfium"
    main()
