# One image for the API, the workers and the migration.

FROM python:3.13-slim-trixie AS build
WORKDIR /opt/pdf-ingest
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv --without-pip /opt/venv
COPY pyproject.toml requirements-fastembed.lock ./
# Extras of pyproject.toml: fastembed runs embedding models in the workers, and adds 120 MB to the image.
ARG EXTRAS=""
# pip 26.1 is the first that takes hashes from a constraints file; the lock, which names it, too, has every
# version of requirements.lock and those of the extra besides.
RUN sed -n '/^pip==/,/[^\\]$/p' requirements-fastembed.lock > pip.txt \
    && pip install --no-cache-dir --require-hashes --requirement pip.txt
# What pyproject.toml needs at run time, in the versions and with the hashes of the lock. Only wheels: nothing
# is compiled, so no compiler is needed. flit-core makes the command `pdf-ingest`, then goes.
# wordllama has no wheel for Linux on ARM. Only its data files are used and they are the same everywhere, so all
# machines take those of the x86-64 wheel; its code is never imported, and what that would need is left out.
RUN --mount=type=cache,target=/root/.cache/pip \
    python -c "import sys, tomllib as t; p = t.load(open('pyproject.toml', 'rb'))['project']; \
        print(*p['dependencies'], *(r for e in sys.argv[1:] for r in p['optional-dependencies'][e]), sep='\n')" \
        $EXTRAS > wanted.txt \
    && sed -n '/^wordllama/p' wanted.txt > model.txt \
    && sed -i '/^wordllama/d' wanted.txt \
    && pip --python /opt/venv/bin/python install --only-binary :all: --require-hashes \
        --constraint requirements-fastembed.lock --requirement wanted.txt flit-core \
    && pip --python /opt/venv/bin/python install --only-binary :all: --require-hashes \
        --constraint requirements-fastembed.lock --requirement model.txt --no-deps --platform manylinux_2_17_x86_64 \
        --target "$(/opt/venv/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")"
COPY README.md alembic.ini ./
COPY alembic alembic
COPY app app
# For a first look at the page.
COPY samples/*.pdf samples/
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --no-build-isolation --editable . \
    && pip --python /opt/venv/bin/python uninstall --yes flit-core \
    && rm pip.txt wanted.txt model.txt requirements-fastembed.lock \
    && python -m compileall -q app alembic

FROM python:3.13-slim-trixie
LABEL org.opencontainers.image.title="pdf-ingest" \
      org.opencontainers.image.description="PDF ingestion service: API, worker and migration" \
      org.opencontainers.image.licenses="MIT"

# English is always there. Three letters each: `apt-cache search tesseract-ocr` lists more than a hundred.
ARG TESSERACT_LANGUAGES="deu fra ita por spa"
# Debian keeps only the newest version of a package, so a pinned one would soon not be found.
# hadolint ignore=DL3008,SC2046
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tesseract-ocr $(printf 'tesseract-ocr-%s ' $TESSERACT_LANGUAGES) \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 ingest \
    && useradd --system --uid 10001 --gid ingest --home-dir /tmp --no-create-home --shell /usr/sbin/nologin ingest \
    && install --directory --owner ingest --group ingest --mode 0700 /data /secrets /models

COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/pdf-ingest /opt/pdf-ingest
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/pdf-ingest
USER 10001:10001
EXPOSE 8000
CMD ["python", "-m", "app.serve", "--host", "0.0.0.0", "--port", "8000", "--timeout-graceful-shutdown", "20"]
