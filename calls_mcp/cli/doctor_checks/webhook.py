"""Check the webhook that is notified of approval requests."""

from http import HTTPStatus
from urllib.parse import urlsplit

from calls_mcp.cli.doctor_checks import Finding
from calls_mcp.service.approvals_webhook import probe
from calls_mcp.settings import Settings

_CHECK = "approvals webhook"
_REMEDY = "check the URL and the network: export CALLS_MCP_APPROVALS_WEBHOOK=URL"
_SUSPICIOUS = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.GONE,
)
"""A webhook may answer HEAD with other errors, because it only accepts POST."""


async def check_webhook(settings: Settings) -> list[Finding]:
    """Send a HEAD request to the webhook, if there is one. It notifies nobody."""
    webhook = settings.approvals.webhook
    if webhook is None:
        return []
    url = webhook.get_secret_value()
    host = urlsplit(url).hostname  # the rest may be secret
    status = await probe(url)
    if isinstance(status, str):
        message = f"{host} can't be notified of approval requests: {status}"
        return [Finding(_CHECK, "problem", message, _REMEDY)]
    if status > HTTPStatus.NOT_IMPLEMENTED or status == HTTPStatus.INTERNAL_SERVER_ERROR:
        message = f"{host} answered {status}"
        return [Finding(_CHECK, "problem", message, "try again later: calls-mcp doctor")]
    is_redirect = HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST
    if is_redirect or status in _SUSPICIOUS:
        message = f"{host} answered {status} to a HEAD request, so notifications may fail"
        return [Finding(_CHECK, "note", message, _REMEDY)]
    return [Finding(_CHECK, "ok", f"{host} can be reached")]
