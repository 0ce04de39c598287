"""The API's answer when it will not do what was asked."""

INVALID_PARAMETER = 20001
NOT_FOUND = 20404
METHOD_NOT_ALLOWED = 20004
CALL_STATE = 21220


class StartError(Exception):
    """The emulator can't start as it was asked to; the text is one line that says why."""


class ApiError(Exception):
    """A refusal, as the service words it.

    Attributes:
        status: The HTTP status of the answer.
        code: The documented error code, as in https://www.twilio.com/docs/errors/21220.
        message: What a person reads.
    """

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    def body(self) -> dict[str, int | str]:
        """The JSON object the service answers with."""
        return {
            "code": self.code,
            "message": self.message,
            "more_info": f"https://www.twilio.com/docs/errors/{self.code}",
            "status": self.status,
        }


def invalid(message: str, code: int = INVALID_PARAMETER) -> ApiError:
    """A request whose parameters cannot be accepted."""
    return ApiError(400, code, message)


def not_found(path: str) -> ApiError:
    """A path that names nothing of this account."""
    return ApiError(404, NOT_FOUND, f"The requested resource {path} was not found")
