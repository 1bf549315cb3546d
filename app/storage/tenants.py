"""The role of callers who are bound to collections, and its rights: what their requests do, and no more.

`migrate` gives them each time, since a role belongs to the server and a restored database may have come to
another one. What the role sees of tables is up to their policies, see the migrations.
"""

from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from app.errors import TenantRoleRefused
from app.storage.chunks import embeddings_table
from app.storage.reach import TENANT_ROLE

# Nothing of keys, webhooks, workers.
RIGHTS: Final = {
    "documents": "SELECT, INSERT, UPDATE, DELETE",
    "ingestions": "SELECT, INSERT, UPDATE",
    "versions": "SELECT",
    "collections": "SELECT, INSERT, UPDATE",
    "collection_deletions": "SELECT, INSERT",
    "chunks": "SELECT, DELETE",
    "chunk_words": "SELECT",
    "word_shares": "SELECT",
    "document_words": "SELECT, INSERT, UPDATE, DELETE",
    "files_to_delete": "SELECT, INSERT",
}
RIGHTS_ON_VECTORS: Final = "SELECT, DELETE"

_NOT_PERMITTED: Final = "42501"
# It belongs to all databases of a server, which may migrate at the same time.
_MAKE_ROLE: Final = f"""
    DO $$ BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{TENANT_ROLE}') THEN
            BEGIN
                CREATE ROLE {TENANT_ROLE} NOLOGIN;
            EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
            END;
        END IF;
        IF NOT pg_has_role(session_user, '{TENANT_ROLE}', CASE
            WHEN CAST(current_setting('server_version_num') AS int) < 160000 THEN 'MEMBER' ELSE 'SET' END)
        THEN
            BEGIN
                GRANT {TENANT_ROLE} TO SESSION_USER;
            EXCEPTION WHEN unique_violation THEN NULL;
            END;
        END IF;
        IF NOT has_schema_privilege('{TENANT_ROLE}', current_schema(), 'USAGE') THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO {TENANT_ROLE}', current_schema());
        END IF;
    END $$
"""


def make_role(connection: Connection) -> None:
    """Make it where it is not. Raises TenantRoleRefused."""
    user = connection.scalar(text("SELECT quote_ident(session_user)"))
    try:
        connection.execute(text(_MAKE_ROLE))
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _NOT_PERMITTED:
            raise
        raise TenantRoleRefused(
            f"{user} may not make the role {TENANT_ROLE}, whose rights requests of keys that are bound to "
            "collections have. An administrator of the Postgres server has to run once: "
            f"CREATE ROLE {TENANT_ROLE} NOLOGIN; GRANT {TENANT_ROLE} TO {user};"
        ) from error


def give_rights(connection: Connection) -> None:
    """Make the role and give it its rights, as far as they are not there. Raises TenantRoleRefused."""
    make_role(connection)
    spaces = connection.scalars(text("SELECT id FROM embedding_spaces"))
    rights = RIGHTS | {embeddings_table(space_id): RIGHTS_ON_VECTORS for space_id in spaces}
    lacking = connection.scalars(_LACKING, {"tables": list(rights), "rights": list(rights.values())})
    for table in lacking.all():
        connection.execute(text(f"GRANT {rights[table]} ON {table} TO {TENANT_ROLE}"))


_LACKING: Final = text(f"""
    SELECT name FROM unnest(CAST(:tables AS text[]), CAST(:rights AS text[])) AS given (name, rights)
    WHERE EXISTS (
        SELECT FROM string_to_table(rights, ', ') AS one
        WHERE NOT has_table_privilege('{TENANT_ROLE}', name, one)
    )
""")
