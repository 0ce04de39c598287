"""Updates: from a form to what becomes of the call."""

from collections.abc import Callable
from typing import Literal, cast

from calls_mcp.emulator.call import Call
from calls_mcp.emulator.errors import invalid
from calls_mcp.emulator.lifecycle import ended, limited, redirected, reporting, require_live
from calls_mcp.emulator.rules import UPDATE, Pairs, checked, single


def change(form: Pairs) -> Callable[[Call, float], Call]:
    """What the form does to a call, as a function of the call and the time.

    The function raises ApiError (400 with code 21220) for a call that is over.

    Raises:
        ApiError: 400, if the form is not in order.
    """
    values = checked(form, UPDATE)
    if not values:
        raise invalid("The update names nothing to change.")
    url, twiml = single(values, "Url"), single(values, "Twiml")
    if url and twiml:
        raise invalid("Url and Twiml exclude each other.")
    callback = single(values, "StatusCallback")
    method = single(values, "StatusCallbackMethod")
    seconds, status = single(values, "TimeLimit"), single(values, "Status")

    def apply(call: Call, now: float) -> Call:
        require_live(call)
        if callback or method:
            call = reporting(call, now, url=callback, method=method)
        if url or twiml:
            call = redirected(call, now, url=url, twiml=twiml)
        if seconds:
            call = limited(call, now, int(seconds))
        if status:
            call = ended(call, now, cast("Literal['canceled', 'completed']", status))
        return call

    return apply
