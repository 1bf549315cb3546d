"""What goes over the wire of webhooks."""

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl, JsonValue

from app.api.schemas import CollectionPatterns, Moment, Page, Shown
from app.storage import outbox, webhooks
from app.storage.webhooks import EventName

MAX_URL_CHARACTERS = 2000
MAX_EVENTS = 20

_WEBHOOK_ID = "01998c6e-7b1e-7c30-9b1f-6a1f3f1f2a10"
_DELIVERY_ID = "01998c6e-7b1e-7c30-9b1f-6a1f3f1f2a11"
_DOCUMENT_ID = "01998c6e-7b1e-7c30-9b1f-6a1f3f1f2a00"
_TASK_ID = "01998c6e-7b1e-7c30-9b1f-6a1f3f1f2a01"
_MADE_AT = "2026-11-27T09:00:00.000000Z"
_WEBHOOK_EXAMPLE: dict[str, JsonValue] = {
    "id": _WEBHOOK_ID,
    "url": "https://example.com/hooks/pdf",
    "events": ["document.ready", "document.failed"],
    "collections": None,
    "created_at": _MADE_AT,
    "disabled_at": None,
    "old_secret_expires_at": None,
}


def _without_password(url: HttpUrl) -> HttpUrl:
    """Raises ValueError: what is listed and logged must hold no secret."""
    if url.username is not None or url.password is not None:
        raise ValueError("must not contain a name or a password")
    return url


class WebhookRequest(BaseModel):
    """Who is to be told of what."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"url": "https://example.com/hooks/pdf", "events": ["document.ready", "document.failed"]}
            ]
        },
    )

    url: Annotated[HttpUrl, Field(max_length=MAX_URL_CHARACTERS), AfterValidator(_without_password)] = Field(
        description="Where to send it, by POST. Its host must have a public address."
    )
    events: list[EventName] = Field(
        min_length=1, max_length=MAX_EVENTS, description="The events to be told of."
    )
    collections: CollectionPatterns | None = Field(
        None,
        description="Only those of documents in these collections, by names or patterns in which `*` stands "
        "for any characters; without it, of all.",
    )


class Webhook(Shown):
    """An address that is told of events."""

    model_config = ConfigDict(json_schema_extra={"examples": [_WEBHOOK_EXAMPLE]})

    id: UUID = Field(description="The webhook.")
    url: str = Field(description="Where it is sent.")
    events: list[EventName] = Field(description="The events it is told of.")
    collections: list[str] | None = Field(
        description="Of which collections, names or patterns; `null`: of all."
    )
    created_at: datetime = Field(description="When it was made.")
    disabled_at: datetime | None = Field(
        description="When its receiver answered 410: it is told nothing any more."
    )
    old_secret_expires_at: datetime | None = Field(
        description="Until then the secret before the newest one signs as well; `null`: one signs."
    )


class WebhookWithSecret(Webhook):
    """A webhook and its new secret, which is not shown again."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [_WEBHOOK_EXAMPLE | {"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwH0a3Yp1cXbE="}]
        }
    )

    secret: str = Field(description="Signs the messages; verify them with it.")

    @classmethod
    def with_secret(cls, webhook: webhooks.Webhook, secret: str) -> Self:
        return cls(**Webhook.of(webhook).model_dump(), secret=secret)


class WebhookList(Page[Webhook]):
    """Webhooks, those made first come first."""


class DeliveryAnswer(BaseModel):
    """What came of the last try."""

    status: int | None = Field(description="The HTTP status; `null` when there was no answer.")
    ms: int = Field(description="Milliseconds it took.")
    body: str = Field(description="The first 1,000 characters of the answer.")
    error: str | None = Field(description="Why there was no answer.")


class Message(BaseModel):
    """What is sent, word for word: ids and statuses, no text of a document."""

    type: EventName | Literal["ping"] = Field(description="The event.")
    timestamp: datetime = Field(description="When it happened.")
    data: dict[str, JsonValue] = Field(
        description="`document_id`, `task_id`, `collection`, the document's `status` and, unless the task "
        "succeeded, its `code`."
    )


class Delivery(BaseModel):
    """What a webhook was told, or is going to be."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": _DELIVERY_ID,
                    "status": "pending",
                    "attempts": 1,
                    "message": {
                        "type": "document.ready",
                        "timestamp": _MADE_AT,
                        "data": {
                            "document_id": _DOCUMENT_ID,
                            "task_id": _TASK_ID,
                            "collection": "default",
                            "status": "ready",
                        },
                    },
                    "answer": {"status": 503, "ms": 41, "body": "try again later", "error": None},
                    "created_at": _MADE_AT,
                    "next_attempt_at": "2026-11-27T09:00:05.210000Z",
                    "finished_at": None,
                }
            ]
        }
    )

    id: UUID = Field(description="The same at every try and replay: the header `webhook-id`.")
    status: Literal["pending", "delivered", "failed"] = Field(
        description="`failed`: given up after ten tries in three days, or since the webhook was disabled."
    )
    attempts: int = Field(description="Tries so far, since it was announced or replayed.")
    message: Message = Field(description="What is sent.")
    answer: DeliveryAnswer | None = Field(description="What came of the last try; `null` before the first.")
    created_at: datetime = Field(description="When the event happened.")
    next_attempt_at: datetime | None = Field(description="When it is sent next; `null` at its end.")
    finished_at: datetime | None = Field(description="When it was delivered or given up.")

    @classmethod
    def of(cls, delivery: outbox.Delivery) -> Self:
        has_answer = delivery.answer_ms is not None
        answer = {
            "status": delivery.answer_status,
            "ms": delivery.answer_ms,
            "body": delivery.answer_body or "",
            "error": delivery.error,
        }
        return cls.model_validate(
            {
                "message": {
                    "type": delivery.event,
                    "timestamp": delivery.created_at,
                    "data": delivery.data,
                },
                "answer": answer if has_answer else None,
                **{
                    name: getattr(delivery, name)
                    for name in ("id", "status", "attempts", "created_at", "next_attempt_at", "finished_at")
                },
            }
        )


class DeliveryList(Page[Delivery]):
    """Deliveries, the newest first."""


class ReplayRequest(BaseModel):
    """Which deliveries to send again."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"since": _MADE_AT}]})

    since: Moment = Field(description="Events from this moment on.")
    until: Moment | None = Field(None, description="Up to this moment; without it, up to now.")


class ReplayedDeliveries(BaseModel):
    """What is sent again."""

    count: int = Field(description="Deliveries that are sent again.")
