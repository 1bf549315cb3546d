"""Webhooks over HTTP: made, listed, tried, given new secrets, told again, deleted."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response

from app.api.dependencies import WebhooksDep
from app.api.problems import problem_responses
from app.api.schemas import Limit
from app.api.webhook_schemas import (
    Delivery,
    DeliveryList,
    ReplayedDeliveries,
    ReplayRequest,
    Webhook,
    WebhookList,
    WebhookRequest,
    WebhookWithSecret,
)
from app.errors import (
    DeliveryNotFound,
    InvalidQuery,
    TooManyWebhooks,
    WebhookAddressRefused,
    WebhookDisabled,
    WebhookNeedsKey,
    WebhookNotFound,
)

WebhookId = Annotated[UUID, Path(description="The `id` of the answer that made it.")]
DeliveryId = Annotated[UUID, Path(description="The `id` of a delivery of this webhook.")]
Position = Annotated[
    str | None,
    Query(pattern="^[0-9]{1,18}$", max_length=18, description="The `next` of the answer before."),
]

NOT_FOUND = problem_responses(WebhookNotFound)
DELIVERING = problem_responses(WebhookNotFound, DeliveryNotFound, WebhookDisabled)

router = APIRouter(prefix="/webhooks", tags=["webhooks"])


@router.post(
    "",
    status_code=201,
    responses=problem_responses(InvalidQuery, WebhookAddressRefused, WebhookNeedsKey, TooManyWebhooks),
)
async def add_webhook(body: WebhookRequest, webhooks: WebhooksDep) -> WebhookWithSecret:
    """Be told of events. The answer has the secret that signs the messages; it is not shown again."""
    webhook, secret = await webhooks.add(str(body.url), list(dict.fromkeys(body.events)), body.collections)
    return WebhookWithSecret.with_secret(webhook, secret)


@router.get("", responses=problem_responses(InvalidQuery))
async def list_webhooks(
    webhooks: WebhooksDep,
    limit: Limit = 50,
    after: Annotated[UUID | None, Query(description="The `next` of the answer before.")] = None,
) -> WebhookList:
    """Webhooks, without their secrets."""
    found = await webhooks.list(after, limit + 1)
    return WebhookList.of(found, limit, Webhook.of, lambda last: last.id)


@router.get("/{webhook_id}", responses=NOT_FOUND)
async def get_webhook(webhook_id: WebhookId, webhooks: WebhooksDep) -> Webhook:
    """A webhook, without its secret."""
    return Webhook.of(await webhooks.get(webhook_id))


@router.delete("/{webhook_id}", status_code=204, response_class=Response, responses=NOT_FOUND)
async def delete_webhook(webhook_id: WebhookId, webhooks: WebhooksDep) -> None:
    """Tell it nothing any more, of what waits neither."""
    await webhooks.delete(webhook_id)


@router.post("/{webhook_id}/ping", status_code=202, responses=DELIVERING)
async def ping_webhook(webhook_id: WebhookId, webhooks: WebhooksDep) -> Delivery:
    """Send a message of type `ping`; `deliveries` show what was answered."""
    return Delivery.of(await webhooks.ping(webhook_id))


@router.post(
    "/{webhook_id}/rotate",
    responses=problem_responses(WebhookNotFound, InvalidQuery, WebhookNeedsKey),
)
async def rotate_secret(webhook_id: WebhookId, webhooks: WebhooksDep) -> WebhookWithSecret:
    """Make a new secret. For 24 hours the one before signs as well: each message has two signatures."""
    return WebhookWithSecret.with_secret(*await webhooks.rotate(webhook_id))


@router.get("/{webhook_id}/deliveries", responses=NOT_FOUND)
async def list_deliveries(
    webhook_id: WebhookId, webhooks: WebhooksDep, limit: Limit = 50, after: Position = None
) -> DeliveryList:
    """What the webhook was told and what it answered, the newest first, for `RETENTION_DAYS`."""
    found = await webhooks.list_deliveries(webhook_id, None if after is None else int(after), limit + 1)
    return DeliveryList.of(found, limit, Delivery.of, lambda last: last.position)


@router.post("/{webhook_id}/deliveries/{delivery_id}/replay", status_code=202, responses=DELIVERING)
async def replay_delivery(webhook_id: WebhookId, delivery_id: DeliveryId, webhooks: WebhooksDep) -> Delivery:
    """Send it again, whatever became of it before; its `webhook-id` stays the same."""
    return Delivery.of(await webhooks.replay(webhook_id, delivery_id))


@router.post("/{webhook_id}/replay", status_code=202, responses=DELIVERING)
async def replay_deliveries(
    webhook_id: WebhookId, body: ReplayRequest, webhooks: WebhooksDep
) -> ReplayedDeliveries:
    """Send again all of what happened in a time."""
    return ReplayedDeliveries(count=await webhooks.replay_range(webhook_id, body.since, body.until))
