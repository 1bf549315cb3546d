"""Every error a caller can meet, with its code, its HTTP status and whether trying again can help.

    PDFIngestError
    ├── UploadRefused            nothing was stored
    │   ├── EmptyFile · UploadNotAPDF · UploadTooLarge · UploadTooSlow · PasswordNeedsKey · InvalidMetadata
    ├── Unreadable               what the reader says of a file
    │   ├── NotAPDF · Encrypted · UnsupportedEncryption · Corrupted · NoPages · TooManyPages
    │   └── TooMuchText · ReadingTimedOut · OutOfMemory · ParserCrashed · NoText
    ├── PathRefused              a task named a path it may not or cannot read
    │   ├── PathNotAllowed · FileNotFound
    ├── Temporary                somebody else's fault
    │   ├── EmbeddingFailed (EmbeddingRefused · TextRefused)
    │   ├── StorageFailed (StoreFull · DiskFull) · DatabaseUnavailable (TenantRoleMissing)
    │   └── Interrupted (ReadingStalled · ReaderKilled · WorkerLost)
    ├── Stopped                  ended by a person, by a newer request or by a limit
    │   ├── Cancelled · Superseded · TaskTimedOut
    ├── RequestRefused           the request does not fit the state of things
    │   ├── NotFound (DocumentNotFound · TaskNotFound · PageNotFound · ChunkNotFound · FileGone ·
    │   │   CollectionNotFound · WebhookNotFound · DeliveryNotFound · KeyNotFound)
    │   ├── AlreadyInWork · IdempotencyKeyReused · IdempotencyKeyInWork · QueueFull · InvalidQuery
    │   ├── CollectionExists · DocumentReplaced · RangeNotSatisfiable · PasswordGone · PicturesBusy
    │   ├── WebhookNeedsKey · WebhookAddressRefused · WebhookDisabled · TooManyWebhooks
    │   ├── RateLimited · QuotaExceeded · KeyNameTaken · AdminKeyFirst · ScopeMissing
    │   ├── TokensNeedSecret · TokenTooLong
    │   └── BodyTooLarge · KeyMissing (KeyUnknown) · ForeignHost · ForeignOrigin
    ├── ServiceNotReady          the answer of /readyz
    ├── EmbeddingSpaceMismatch · SandboxIncomplete      refused at start-up
    ├── TenantRoleRefused        refused by a migration
    └── InternalError            ours

What becomes of a run that meets an error depends on one thing, whose fault it is (`owner`):

    owner      errors                                     what happens
    ---------  -----------------------------------------  ----------------------------------------------------
    document   Unreadable, PathRefused, TextRefused,      the verdict, final
               Stopped, InternalError
    embedder   EmbeddingFailed, EmbeddingRefused          charged to no document: once a probe fails too, all
    file_store StorageFailed; an OSError of the worker    work waits until one succeeds (`services.outages`)
    database   DatabaseUnavailable                        charged to no document: the lease is given back, or
                                                          runs out
    attempt    Interrupted                                again after 0, 1, 5, 20 and 60 s; the sixth one
                                                          without progress in between is the verdict; what
                                                          died with its whole worker counts for none

Each takes exactly one message, so that it survives pickling.
"""

from typing import ClassVar, Literal

Owner = Literal["document", "embedder", "file_store", "database", "attempt"]


class PDFIngestError(Exception):
    """Base of all errors that have a meaning for a caller."""

    code: ClassVar[str] = "internal_error"
    status_code: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    owner: ClassVar[Owner] = "document"
    default_message: ClassVar[str] = "Something went wrong on our side. The log has the details."

    def __init_subclass__(
        cls,
        *,
        code: str | None = None,
        status: int | None = None,
        retryable: bool | None = None,
        owner: Owner | None = None,
    ) -> None:
        """What is not said is as in the parent."""
        given = {"code": code, "status_code": status, "retryable": retryable, "owner": owner}
        for name, value in given.items():
            if value is not None:
                setattr(cls, name, value)

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or self.default_message)

    @property
    def message(self) -> str:
        return str(self.args[0])

    def as_result(self) -> dict[str, str | bool]:
        """The structured result of a task that ends with this error."""
        return {
            "status": "error",
            "message": self.message,
            "code": self.code,
            "retryable": self.retryable,
        }


class InternalError(PDFIngestError, retryable=True):
    """Ours."""


class UploadRefused(PDFIngestError, code="invalid_request", status=422):
    """Nothing was stored."""


class EmptyFile(UploadRefused, code="empty_file", status=400):
    default_message = "The file is empty."


class UploadNotAPDF(UploadRefused, code="not_a_pdf", status=415):
    default_message = "This is not a PDF: its first 1,024 bytes do not contain %PDF."


class UploadTooLarge(UploadRefused, code="too_large", status=413):
    default_message = "The file is larger than this server accepts (MAX_UPLOAD_BYTES)."


class UploadTooSlow(UploadRefused, code="upload_timed_out", status=408):
    default_message = "The body of this request took too long to arrive."


class PasswordNeedsKey(UploadRefused, code="password_needs_secret_key"):
    default_message = "A PDF password can only be kept safe with a SECRET_KEY; this server has none."


class InvalidMetadata(UploadRefused, code="invalid_metadata"):
    default_message = "metadata must be a JSON object."


class Unreadable(PDFIngestError, status=422):
    """What the reader says of a file."""


class NotAPDF(Unreadable, code="not_a_pdf"):
    default_message = "This is not a PDF: its first 1,024 bytes do not contain %PDF."


class Encrypted(Unreadable, code="encrypted"):
    default_message = (
        "The PDF is encrypted and no password given opens it (or its encryption is damaged). "
        "Retry with the right password."
    )


class UnsupportedEncryption(Unreadable, code="unsupported_encryption"):
    default_message = "The PDF is encrypted in a way that no engine here can open."


class Corrupted(Unreadable, code="corrupted"):
    default_message = "The PDF is damaged or cut short: no engine here can read its pages."


class NoPages(Unreadable, code="no_pages"):
    default_message = "The PDF has no pages."


class TooManyPages(Unreadable, code="too_many_pages"):
    default_message = "The PDF has more pages than this server accepts (MAX_PAGES)."


class TooMuchText(Unreadable, code="too_much_text"):
    default_message = "The PDF holds more text than this server accepts."


class ReadingTimedOut(Unreadable, code="timed_out"):
    default_message = "Reading the PDF took too long and was stopped."


class OutOfMemory(Unreadable, code="out_of_memory"):
    default_message = "Reading the PDF needed more memory than allowed and was stopped."


class ParserCrashed(Unreadable, code="parser_crashed"):
    default_message = "The PDF made the parser crash."


class NoText(Unreadable, code="no_text"):
    default_message = "The PDF has no text that could be read."


class PathRefused(PDFIngestError, status=422):
    """A task named a path it may not or cannot read."""


class PathNotAllowed(PathRefused, code="path_not_allowed"):
    default_message = "The path lies outside the folders this server may read (INGEST_FOLDERS)."


class FileNotFound(PathRefused, code="file_not_found"):
    default_message = "There is no file at this path."


class Temporary(PDFIngestError, status=503, retryable=True):
    """Somebody else's fault."""


class EmbeddingFailed(Temporary, code="embedding_failed", owner="embedder"):
    default_message = "The embedding service could not embed the text."


class EmbeddingRefused(EmbeddingFailed):
    """The embedding service says no to everything (bad key, unknown model)."""


class TextRefused(EmbeddingFailed, owner="document"):
    """The embedding service takes other texts, but not this one."""


class StorageFailed(Temporary, code="storage_failed", status=507, owner="file_store"):
    default_message = "The file could not be stored."


class StoreFull(StorageFailed):
    default_message = "The files stored here have reached the limit of this server (MAX_STORE_BYTES)."


class DiskFull(StorageFailed):
    default_message = "The disk of the file store is full."


class DatabaseUnavailable(Temporary, code="storage_failed", owner="database"):
    default_message = "The database did not answer."


class Interrupted(Temporary, code="worker_lost", owner="attempt"):
    """An attempt ended from outside: what the PDF is like has not been found out."""

    default_message = "The attempt was interrupted."


class ReadingStalled(Interrupted):
    default_message = (
        "Reading the PDF came to a standstill each time: it got hardly any CPU time, or waited for something."
    )


class ReaderKilled(Interrupted):
    default_message = (
        "The process that reads the PDF was killed from outside each time, most likely because the machine "
        "had no memory left (READING_MEMORY_MB is what each may use)."
    )


class WorkerLost(Interrupted):
    default_message = "The worker was lost each time it tried to ingest this PDF."


class Stopped(PDFIngestError, status=409):
    """Ended by a person, by a newer request or by a limit."""


class Cancelled(Stopped, code="cancelled", retryable=True):
    default_message = "The ingestion was cancelled."


class Superseded(Stopped, code="superseded"):
    default_message = "A newer request for the same document took the place of this one."


class TaskTimedOut(Stopped, code="timed_out"):
    default_message = "The ingestion took longer than its time limit and was stopped."


class RequestRefused(PDFIngestError, status=409):
    """The request does not fit the state of things."""


class NotFound(RequestRefused, code="not_found", status=404):
    """There is no such thing, or none for whoever asks."""


class DocumentNotFound(NotFound, code="document_not_found"):
    default_message = "There is no document with this id."


class TaskNotFound(NotFound, code="task_not_found"):
    default_message = "There is no task with this id."


class ChunkNotFound(NotFound, code="chunk_not_found"):
    default_message = "The served version of the document has no such chunk."


class PageNotFound(NotFound, code="page_not_found"):
    default_message = "The document has no such page."


class FileGone(NotFound, code="file_not_found"):
    default_message = "The file of this document is not kept any more. Upload it again."


class CollectionNotFound(NotFound, code="collection_not_found"):
    default_message = "There is no collection with this name."


class CollectionExists(RequestRefused, code="collection_exists"):
    default_message = "There is a collection with this name already. Choose another name."


class WebhookNotFound(NotFound, code="webhook_not_found"):
    default_message = "There is no webhook with this id."


class DeliveryNotFound(NotFound, code="delivery_not_found"):
    default_message = "The webhook has no delivery with this id."


class WebhookNeedsKey(RequestRefused, code="webhook_needs_secret_key", status=422):
    default_message = "A webhook's secret can only be kept safe with a SECRET_KEY; this server has none."


class WebhookAddressRefused(RequestRefused, code="webhook_address_not_allowed", status=422):
    default_message = (
        "The URL leads to a private or local address. Use a public one, or set WEBHOOK_ALLOW_PRIVATE."
    )


class WebhookDisabled(RequestRefused, code="webhook_disabled"):
    default_message = "The webhook is disabled: its receiver answered 410. Delete it and make a new one."


class TooManyWebhooks(RequestRefused, code="too_many_webhooks"):
    default_message = "There are 100 webhooks already. Delete one first."


class KeyNotFound(NotFound, code="key_not_found"):
    default_message = "There is no key with this id, or it is revoked already."


class AlreadyInWork(RequestRefused, code="already_in_work"):
    default_message = "The document is being ingested right now."


class DocumentReplaced(RequestRefused, code="document_replaced"):
    default_message = "Another version was published in between. Start again from the first page of the list."


class RangeNotSatisfiable(RequestRefused, code="range_not_satisfiable", status=416):
    default_message = "The file has no bytes in this range."


class IdempotencyKeyReused(RequestRefused, code="idempotency_key_reused", status=422):
    default_message = "This Idempotency-Key was used before with other content."


class IdempotencyKeyInWork(RequestRefused, code="idempotency_key_in_work"):
    default_message = "The first request with this Idempotency-Key is still in work."


class PasswordGone(RequestRefused, code="password_gone"):
    default_message = (
        "The PDF is encrypted. Its pages can be drawn as long as a task that was given the right password is "
        "in work; then the password is erased."
    )


class PicturesBusy(RequestRefused, code="busy", status=503, retryable=True):
    default_message = "Too many pages are being drawn already. Try again in a moment."


class QueueFull(RequestRefused, code="queue_full", status=429, retryable=True):
    default_message = "Too many documents are waiting already (MAX_QUEUED). Try again later."


class InvalidQuery(RequestRefused, code="invalid_request", status=422):
    default_message = "The request is not valid."


class BodyTooLarge(RequestRefused, code="too_large", status=413):
    default_message = "The body of this request is too large. Only uploads may be over 1,000,000 bytes long."


class KeyMissing(RequestRefused, code="unauthorized", status=401):
    default_message = "This service wants an API key: send the header `Authorization: Bearer <key>`."


class KeyUnknown(KeyMissing):
    default_message = "This service does not know the API key."


class ScopeMissing(RequestRefused, code="scope_missing", status=403):
    default_message = "The API key has not the scope that this request needs. Ask for a key that has it."


class RateLimited(RequestRefused, code="rate_limited", status=429, retryable=True):
    default_message = (
        "This key has made all the requests that it may make in a minute. Go on in the next one."
    )


class QuotaExceeded(RequestRefused, code="quota_exceeded", status=429):
    default_message = "This key has used all that it may use in a month. Go on in the next one."


class TokensNeedSecret(RequestRefused, code="tokens_need_secret_key", status=422):
    default_message = "Tokens are signed with a SECRET_KEY; this server has none."


class TokenTooLong(RequestRefused, code="token_too_long", status=422):
    default_message = "The token would be too long for a link. Name fewer documents or collections."


class KeyNameTaken(RequestRefused, code="key_name_taken"):
    default_message = (
        "Two keys of this name are in use already, or API_KEYS has the name. "
        "Revoke one, or take another name."
    )


class AdminKeyFirst(RequestRefused, code="admin_key_first"):
    default_message = (
        "From the first key on every request needs one, and nobody could make another: make one with the "
        "scope admin first, or set API_KEYS."
    )


class ForeignHost(RequestRefused, code="foreign_host", status=403):
    default_message = (
        "Without keys this service is asked by its address only, or by a name in ALLOWED_HOSTS; "
        "the header Host has another name."
    )


class ForeignOrigin(RequestRefused, code="foreign_origin", status=403):
    default_message = (
        "Without keys this service answers no web page of another origin, "
        "unless the name of its host is in ALLOWED_HOSTS."
    )


class ServiceNotReady(PDFIngestError, code="not_ready", status=503, retryable=True):
    default_message = "The service cannot do its work right now."


class EmbeddingSpaceMismatch(PDFIngestError, code="embedding_space_mismatch", status=503):
    """Refused at start-up: the data was made with another model."""


class TenantRoleMissing(DatabaseUnavailable):
    """A role belongs to a Postgres server: a database that was restored on another one has none."""

    default_message = (
        "Postgres has no role pdf_ingest_tenant with the rights that requests of bound keys need. "
        "`pdf-ingest migrate` makes it."
    )


class TenantRoleRefused(PDFIngestError, code="tenant_role_refused", status=503):
    default_message = "The user of DATABASE_URL may not make the role pdf_ingest_tenant in Postgres."


class SandboxIncomplete(PDFIngestError, code="sandbox_incomplete", status=503):
    default_message = "The processes that read PDFs cannot be confined here, as SANDBOX=require wants."


class LeaseLost(Exception):  # a fact, not an error: somebody else owns the work now
    """The fenced lease is not ours any more; nothing we write will be accepted."""


class WorkHeld(Exception):  # a fact, not an error
    """Another delivery of the same task holds the work, or it is not its turn yet."""


class ChunksDiffer(Exception):
    """What is read now is not what an earlier attempt has stored."""


def error_for_code(code: str, message: str | None = None) -> PDFIngestError:
    """The error of a stored verdict, for example "encrypted" → Encrypted.

    A reading verdict wins over the upload's error of the same code; an unknown code is an InternalError.
    """
    return _VERDICTS.get(code, InternalError)(message)


def _subclasses(parent: type[PDFIngestError]) -> list[type[PDFIngestError]]:
    return [parent, *(leaf for child in parent.__subclasses__() for leaf in _subclasses(child))]


_VERDICTS: dict[str, type[PDFIngestError]] = {
    error.code: error
    for family in (UploadRefused, Stopped, Temporary, PathRefused, Unreadable)
    for error in reversed(_subclasses(family))
    if "code" in vars(error)  # a family without a code of its own must not stand for internal_error
}
